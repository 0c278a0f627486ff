//! The page itself: one file, in the binary.

use std::hash::{BuildHasher, RandomState};

use axum::http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use axum::response::{IntoResponse, Response};

use super::private;

/// Where the file has its script and style, this stands in place of the nonce.
const PLACE: &str = "{{nonce}}";

static PAGE: &str = include_str!("page.html");

/// The page, with a policy that lets only its own script and style run and only this server be asked.
pub(super) fn page() -> Response {
    let nonce = nonce();
    let policy = format!(
        "default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; img-src data:; base-uri 'none'; \
         form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    );
    let headers = [(CONTENT_TYPE, "text/html; charset=utf-8".to_owned()), (CONTENT_SECURITY_POLICY, policy)];
    private((headers, PAGE.replace(PLACE, &nonce)).into_response())
}

/// What nobody can guess: 128 bits of hashes under keys from the operating system's randomness.
fn nonce() -> String {
    let half = || RandomState::new().hash_one(0_u8);
    format!("{:016x}{:016x}", half(), half())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_answer_has_a_nonce_of_its_own() {
        assert_ne!(nonce(), nonce());
    }

    #[test]
    fn the_file_needs_nothing_from_elsewhere_and_writes_no_markup() {
        assert_eq!(PAGE.matches(PLACE).count(), 2, "one script, one style");
        for banned in [
            "http:",
            "https:",
            "//cdn",
            "@import",
            "url(",
            "<link rel=\"stylesheet\"",
            "innerHTML",
            "outerHTML",
            "insertAdjacent",
            "document.write",
            "eval(",
            "Function(",
            " onclick",
            " style=\"",
            "setAttribute(\"style",
            "srcdoc",
        ] {
            assert!(!PAGE.contains(banned), "{banned}");
        }
    }
}
