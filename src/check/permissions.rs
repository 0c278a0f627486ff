//! What the `ServiceAccount`s of server and agent must be allowed, as `deployments/rbac` grants it, and what this command needs itself.

use super::Finding;
use crate::kube_api::names::{AGENT_ACCOUNT, SERVER_ACCOUNT};

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    /// `None`: whoever runs the command.
    pub account: Option<&'static str>,
    /// As in RBAC.
    pub verb: &'static str,
    /// API group, empty for the core group.
    pub group: &'static str,
    /// Resource.
    pub resource: &'static str,
    /// Subresource, empty for none.
    pub subresource: &'static str,
}

const fn need(account: Option<&'static str>, verb: &'static str, resource: &'static str) -> Need {
    Need { account, verb, group: "", resource, subresource: "" }
}

const SERVER: Option<&str> = Some(SERVER_ACCOUNT);
const AGENT: Option<&str> = Some(AGENT_ACCOUNT);

/// All that is asked.
pub const NEEDS: [Need; 20] = [
    need(None, "list", "nodes"),
    need(None, "list", "pods"),
    need(None, "list", "resourcequotas"),
    Need { group: "admissionregistration.k8s.io", ..need(None, "get", "mutatingwebhookconfigurations") },
    need(SERVER, "list", "nodes"),
    need(SERVER, "watch", "nodes"),
    need(SERVER, "list", "pods"),
    need(SERVER, "watch", "pods"),
    need(SERVER, "watch", "namespaces"),
    Need { subresource: "binding", ..need(SERVER, "create", "pods") },
    Need { subresource: "status", ..need(SERVER, "patch", "pods") },
    Need { subresource: "eviction", ..need(SERVER, "create", "pods") },
    Need { group: "events.k8s.io", ..need(SERVER, "create", "events") },
    need(AGENT, "watch", "nodes"),
    need(AGENT, "patch", "nodes"),
    Need { subresource: "status", ..need(AGENT, "patch", "nodes") },
    need(AGENT, "get", "pods"),
    need(AGENT, "list", "pods"),
    need(AGENT, "watch", "pods"),
    Need { group: "events.k8s.io", ..need(AGENT, "create", "events") },
];

/// The answer to one question: `None` where it could not be asked.
pub type Answer = Option<bool>;

impl Need {
    fn words(&self) -> String {
        let group = if self.group.is_empty() { String::new() } else { format!(".{}", self.group) };
        let subresource = if self.subresource.is_empty() { String::new() } else { format!("/{}", self.subresource) };
        format!("{} {}{group}{subresource}", self.verb, self.resource)
    }
}

/// Judges the answers to [`NEEDS`].
pub fn judge(answers: &[(Need, Answer)]) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (account, check) in
        [(None, "own permissions"), (SERVER, "permissions of the server"), (AGENT, "permissions of the agent")]
    {
        let of = |wanted: Answer| {
            let these = answers.iter().filter(|(need, answer)| need.account == account && *answer == wanted);
            these.map(|(need, _)| need.words()).collect::<Vec<_>>().join(", ")
        };
        let (denied, unasked) = (of(Some(false)), of(None));
        findings.push(match (account, denied.as_str(), unasked.as_str()) {
            (_, "", "") => Finding::ok(check, "all there"),
            (None, "", unasked) => Finding::unknown(check, format!("could not be asked: {unasked}"), "try again"),
            (None, denied, _) => Finding::unknown(
                check,
                format!("not allowed: {denied}"),
                "run this with an account that may: what needs it cannot be looked at",
            ),
            (Some(_), "", unasked) => Finding::unknown(
                check,
                format!("could not be asked: {unasked}"),
                "run this with an account that may create subjectaccessreviews.authorization.k8s.io",
            ),
            (Some(_), denied, _) => {
                Finding::wrong(check, format!("not allowed: {denied}"), "apply deployments/rbac, or the chart's RBAC")
            }
        });
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    fn judged(answer: impl Fn(&Need) -> Answer) -> Vec<(Level, String)> {
        let answers: Vec<_> = NEEDS.iter().map(|need| (*need, answer(need))).collect();
        judge(&answers).into_iter().map(|finding| (finding.level, finding.found)).collect()
    }

    #[test]
    fn what_is_missing_is_named_for_whom_it_concerns() {
        let all = judged(|_| Some(true));
        assert!(all.iter().all(|(level, _)| *level == Level::Ok), "{all:?}");
        let found = judged(|need| Some(need.subresource != "binding"));
        assert_eq!(found[1], (Level::Wrong, "not allowed: create pods/binding".to_owned()));
        assert_eq!((found[0].0, found[2].0), (Level::Ok, Level::Ok));
        let found = judged(|need| Some(need.resource != "resourcequotas"));
        assert_eq!(found[0], (Level::Unknown, "not allowed: list resourcequotas".to_owned()));
        let found = judged(|need| if need.account.is_some() { None } else { Some(true) });
        assert_eq!([found[0].0, found[1].0, found[2].0], [Level::Ok, Level::Unknown, Level::Unknown]);
        assert!(
            found[2].1.contains("patch nodes/status") && found[2].1.contains("create events.events.k8s.io"),
            "{found:?}"
        );
    }
}
