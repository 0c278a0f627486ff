//! `packhorse certs`: a CA and a serving certificate as files, for who keeps certificates by hand. Uses no network. Existing files
//! are left alone unless asked, because losing `tls.key` of a running webhook refuses all GPU pods.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};

use crate::certs::Settings;
use crate::certs::authority::Authority;

/// Flags of `packhorse certs`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Directory for ca.crt, tls.crt and tls.key; made where it does not exist
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// DNS name or IP address the certificate is valid for; repeatable [default: the names of the Service in deployments/]
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<String>,
    /// Days until the certificate and its CA end
    #[arg(long, value_name = "DAYS", default_value_t = 365, value_parser = clap::value_parser!(u32).range(1..=36_500))]
    days: u32,
    /// Overwrite files that exist
    #[arg(long)]
    force: bool,
}

/// Writes the files.
///
/// # Errors
/// Names the file or the flag to blame.
pub fn run(args: Args) -> anyhow::Result<()> {
    let Args { out, names, days, force } = args;
    let names = if names.is_empty() { Settings::default().names } else { names };
    let life = Duration::from_secs(u64::from(days) * 86_400);
    let now = SystemTime::now();
    // The CA's key is thrown away: nobody can sign with it later, and the next certificate comes with a CA of its own.
    let authority = Authority::generate(now, life)?;
    let leaf = authority.issue(now, &names, life).with_context(|| format!("--name {}", names.join(" --name ")))?;

    fs::create_dir_all(&out).with_context(|| format!("cannot make --out {}", out.display()))?;
    let files = [
        ("ca.crt", &authority.certificate, 0o644),
        ("tls.crt", &leaf.certificate, 0o644),
        ("tls.key", &leaf.key, 0o600),
    ];
    if !force {
        for (name, ..) in &files {
            let path = out.join(name);
            if path.try_exists().with_context(|| format!("cannot look for {}", path.display()))? {
                bail!("{} exists; remove it or give --force", path.display());
            }
        }
    }
    for (name, content, mode) in files {
        let path = out.join(name);
        write(&path, content, mode).with_context(|| format!("cannot write {}", path.display()))?;
        println!("{}", path.display());
    }
    println!(
        "valid {days} days for {}; put ca.crt, base64, into caBundle of the webhook configuration",
        names.join(", ")
    );
    Ok(())
}

/// Writes beside the file and renames, so that a server that follows it never sees half of it, and a key is never readable by
/// others, not even for an instant.
fn write(path: &Path, content: &str, mode: u32) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&beside)?;
    file.write_all(content.as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)
}
