//! NVIDIA's runtime in CRI-O's configuration, preferably in a drop-in: `crio.conf(5)`, `crio.conf.d(5)`.
//!
//! CRI-O reads `/etc/crio/crio.conf` and then every file of `/etc/crio/crio.conf.d` by name; a later file wins key by key, and a runtime's
//! table as a whole. It reads CDI files without being told.

use std::path::{Path, PathBuf};

use toml_edit::{Item, TableLike};

use super::toml::{Document, bare_copy};
use super::{File, Plan, Refusal, Registration};

const RUNTIME: [&str; 2] = ["crio", "runtime"];

/// CRI-O's configuration.
#[derive(Debug)]
pub struct Configuration {
    /// The files in the order in which CRI-O reads them.
    pub files: Vec<File>,
    /// The file to write into; one of [`Self::files`], there or not.
    pub target: PathBuf,
}

/// What to change so that `wanted` holds.
///
/// # Errors
/// [`Refusal`] where a file is no TOML or holds something else than CRI-O reads there, and where a file that is read later overrules
/// the change.
pub fn plan(configuration: &Configuration, wanted: &Registration) -> Result<Plan, Refusal> {
    let mut files = configuration.files.iter().map(Document::parse).collect::<Result<Vec<_>, _>>()?;
    let target = files.iter().position(|file| file.path() == configuration.target);
    let Some(target) = target else { return Ok(Plan::default()) };
    let name = wanted.name.as_str();

    let runtime = ["crio", "runtime", "runtimes", name];
    let program_key = ["crio", "runtime", "runtimes", name, "runtime_path"];
    let registered = last(&files, &program_key)?;
    let program = wanted.program_over(registered.as_ref().map(|(_, program)| program.as_str()));
    if registered.as_ref().is_none_or(|(_, there)| *there != program) {
        refuse_later(&files, target, &program_key)?;
        if files[target].table(&runtime)?.is_none()
            && let Some(model) = model(&files, name)?
        {
            files[target].put(&runtime, model)?;
        }
        files[target].set(&program_key, program.as_str())?;
        files[target].set(&["crio", "runtime", "runtimes", name, "runtime_type"], "oci")?;
    }
    let default_key = ["crio", "runtime", "default_runtime"];
    if wanted.default && last(&files, &default_key)?.is_none_or(|(_, default)| default != name) {
        refuse_later(&files, target, &default_key)?;
        files[target].set(&default_key, name)?;
    }
    let notes = if wanted.cdi { cdi_notes(&files)? } else { Vec::new() };
    Ok(Plan { edits: files.into_iter().filter_map(Document::into_edit).collect(), notes, program })
}

/// The text that wins, and the place of its file.
fn last(files: &[Document], keys: &[&str]) -> Result<Option<(usize, String)>, Refusal> {
    let mut found = None;
    for (place, file) in files.iter().enumerate() {
        if let Some(text) = file.text(keys)? {
            found = Some((place, text.to_owned()));
        }
    }
    Ok(found)
}

fn refuse_later(files: &[Document], target: usize, keys: &[&str]) -> Result<(), Refusal> {
    match last(files, keys)? {
        Some((place, value)) if place > target => Err(Refusal::Conflict {
            file: files[place].path().to_owned(),
            message: format!(
                "is read after {} and sets {} to \"{value}\"; remove it there, or name that file with --config",
                files[target].path().display(),
                keys.join(".")
            ),
        }),
        _ => Ok(()),
    }
}

/// A copy of the runtime that serves containers now: its monitor is where this installation has it. Its state folder is its own.
fn model(files: &[Document], name: &str) -> Result<Option<Item>, Refusal> {
    let default = last(files, &["crio", "runtime", "default_runtime"])?.map(|(_, default)| default).unwrap_or_default();
    for candidate in [default.as_str(), "crun", "runc"] {
        for file in files.iter().rev() {
            let Some(table) = file.table(&["crio", "runtime", "runtimes", candidate])? else { continue };
            if candidate != name && runs_programs(table) {
                let mut copy = file.get(&["crio", "runtime", "runtimes", candidate]).map(bare_copy);
                if let Some(table) = copy.as_mut().and_then(Item::as_table_like_mut) {
                    table.remove("runtime_root");
                    table.remove("runtime_config_path");
                }
                return Ok(copy);
            }
        }
    }
    Ok(None)
}

/// A runtime of type `oci` is a program; of type `vm` it is a shim.
fn runs_programs(table: &dyn TableLike) -> bool {
    table.get("runtime_type").and_then(Item::as_str).is_none_or(|kind| kind.is_empty() || kind == "oci")
}

fn cdi_notes(files: &[Document]) -> Result<Vec<String>, Refusal> {
    let keys: Vec<&str> = RUNTIME.into_iter().chain(["cdi_spec_dirs"]).collect();
    let Some(file) = files.iter().rev().find(|file| file.get(&keys).is_some()) else { return Ok(Vec::new()) };
    let folders = file.texts(&keys)?;
    let known = |folder: &&str| [Path::new("/var/run/cdi"), Path::new("/run/cdi")].contains(&Path::new(folder));
    if folders.iter().any(known) {
        return Ok(Vec::new());
    }
    Ok(vec![format!("{}: cdi_spec_dirs leaves out /var/run/cdi, where the agent writes", file.path().display())])
}
