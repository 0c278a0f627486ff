//! Reading configuration files, and replacing them so that a reader never sees half of one and the old state can be had back.
//!
//! Each file is written beside its place and renamed over it, with the owner and mode of the one before; what was there stays as a
//! backup, `<name>.packhorse-<time>.bak`. In folders of drop-ins (`*.d`) both lie in the folder above: CRI-O reads every file of such a
//! folder, whatever its name.

use std::fs::{self, File as Handle, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use super::{Edit, File, Place, Refusal};

/// Why a file was not read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file system refused.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// The reason.
        source: io::Error,
    },
    /// Somebody else wrote the file in the meantime.
    #[error("{} has changed while it was being edited; nothing was written to it: run again", path.display())]
    Changed {
        /// The file.
        path: PathBuf,
    },
    /// The file is not text.
    #[error(transparent)]
    Refused(#[from] Refusal),
}

/// Reads a file.
///
/// # Errors
/// [`Error::Io`]; [`Error::Refused`] where it is not UTF-8. A file that is not there is no error.
pub fn read(path: &Path) -> Result<File, Error> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(File::absent(path)),
        Err(source) => return Err(Error::Io { what: "read", path: path.to_owned(), source }),
    };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(File::new(path, text)),
        Err(error) => {
            let valid = error.utf8_error().valid_up_to();
            let before = String::from_utf8_lossy(&error.as_bytes()[..valid]).into_owned();
            Err(Error::Refused(Refusal::Syntax {
                file: path.to_owned(),
                place: Place::of(&before, valid),
                message: "this is not UTF-8".to_owned(),
            }))
        }
    }
}

/// Files that were replaced, and what there was before.
#[derive(Debug, Default)]
#[must_use = "the change stands unless it is taken back"]
pub struct Replaced {
    done: Vec<Done>,
}

#[derive(Debug)]
struct Done {
    path: PathBuf,
    before: Option<String>,
    after: String,
    backup: Option<PathBuf>,
}

impl Replaced {
    /// The files that were written, each with its backup where there was a file before.
    pub fn files(&self) -> impl Iterator<Item = (&Path, Option<&Path>)> {
        self.done.iter().map(|done| (done.path.as_path(), done.backup.as_deref()))
    }

    /// Puts back what there was, the last written first, and removes the backups. Goes on after an error.
    ///
    /// # Errors
    /// The first one; its backup stays.
    pub fn take_back(self) -> Result<(), Error> {
        let mut first = Ok(());
        for done in self.done.into_iter().rev() {
            if let Err(error) = done.take_back()
                && first.is_ok()
            {
                first = Err(error);
            }
        }
        first
    }
}

impl Done {
    fn take_back(self) -> Result<(), Error> {
        unchanged(&self.path, Some(&self.after))?;
        match &self.before {
            Some(before) => write(&self.path, before)?,
            None => remove(&self.path)?,
        }
        self.backup.as_deref().map_or(Ok(()), remove)
    }
}

/// Replaces the files. After an error all of them are as they were.
///
/// # Errors
/// [`Error::Changed`] where a file is not what it was when it was read; else [`Error::Io`].
pub fn replace(edits: &[Edit], now: jiff::Timestamp) -> Result<Replaced, Error> {
    let mut replaced = Replaced::default();
    for edit in edits {
        match replace_one(edit, now) {
            Ok(done) => replaced.done.push(done),
            Err(error) => {
                // The first error is the one to tell; what cannot be put back has its backup beside it.
                let _ = replaced.take_back();
                return Err(error);
            }
        }
    }
    Ok(replaced)
}

fn replace_one(edit: &Edit, now: jiff::Timestamp) -> Result<Done, Error> {
    // A link stays one: what it points to is replaced.
    let path = fs::canonicalize(&edit.path).unwrap_or_else(|_| edit.path.clone());
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).map_err(|source| Error::Io { what: "make", path: folder.to_owned(), source })?;
    }
    unchanged(&path, edit.before.as_deref())?;
    let backup = edit.before.as_deref().map(|before| back_up(&path, before, now)).transpose()?;
    write(&path, &edit.after)?;
    Ok(Done { path, before: edit.before.clone(), after: edit.after.clone(), backup })
}

fn unchanged(path: &Path, expected: Option<&str>) -> Result<(), Error> {
    if read(path)?.text.as_deref() == expected { Ok(()) } else { Err(Error::Changed { path: path.to_owned() }) }
}

fn back_up(path: &Path, before: &str, now: jiff::Timestamp) -> Result<PathBuf, Error> {
    let time = now.strftime("%Y%m%dT%H%M%SZ");
    for number in 0_u32.. {
        let tail = if number == 0 { format!("packhorse-{time}.bak") } else { format!("packhorse-{time}-{number}.bak") };
        let backup = beside(path, &tail);
        match create(&backup, before, path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::Io { what: "write the backup", path: backup, source }),
            Ok(()) => return Ok(backup),
        }
    }
    Err(Error::Io { what: "write the backup", path: path.to_owned(), source: io::ErrorKind::AlreadyExists.into() })
}

/// Writes a file so that a reader sees the old one or the new one.
fn write(path: &Path, text: &str) -> Result<(), Error> {
    let fail = |what, path: &Path| {
        let path = path.to_owned();
        move |source| Error::Io { what, path, source }
    };
    let mut staged = beside(path, &format!("packhorse-{}.new", std::process::id()));
    remove(&staged)?;
    create(&staged, text, path).map_err(fail("write", &staged))?;
    if let Err(error) = fs::rename(&staged, path) {
        // A folder of drop-ins can be a mount of its own.
        if error.kind() != io::ErrorKind::CrossesDevices {
            // The error of the rename is the one to tell.
            let _ = fs::remove_file(&staged);
            return Err(Error::Io { what: "replace", path: path.to_owned(), source: error });
        }
        remove(&staged)?;
        let mut name = path.as_os_str().to_owned();
        name.push(".packhorse.new");
        staged = PathBuf::from(name);
        remove(&staged)?;
        create(&staged, text, path).map_err(fail("write", &staged))?;
        fs::rename(&staged, path).map_err(fail("replace", path))?;
    }
    sync_folder(path).map_err(fail("save the folder of", path))
}

/// Makes a new file with the owner and mode of another, where there is one.
fn create(path: &Path, text: &str, like: &Path) -> io::Result<()> {
    let model = fs::metadata(like).ok();
    let mode = model.as_ref().map_or(0o644, |model| model.permissions().mode() & 0o7777);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    if let Some(model) = model {
        // Only root may give a file away, and only then is it needed.
        let own = file.metadata()?;
        if (own.uid(), own.gid()) != (model.uid(), model.gid()) {
            chown(path, Some(model.uid()), Some(model.gid()))?;
        }
        file.set_permissions(fs::Permissions::from_mode(mode))?;
    }
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

fn remove(path: &Path) -> Result<(), Error> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::Io { what: "remove", path: path.to_owned(), source: error })
        }
        _ => Ok(()),
    }
}

fn sync_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| Handle::open(folder)?.sync_all())
}

/// `<name>.<tail>`, in a folder whose files no runtime reads.
fn beside(path: &Path, tail: &str) -> PathBuf {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let folder = path.parent().unwrap_or(Path::new("/"));
    let is_drop_ins = folder.file_name().is_some_and(|name| name.to_string_lossy().ends_with(".d"));
    let folder = if is_drop_ins { folder.parent().unwrap_or(folder) } else { folder };
    folder.join(format!("{name}.{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edit(path: &Path, before: Option<&str>, after: &str) -> Edit {
        Edit { path: path.to_owned(), before: before.map(ToOwned::to_owned), after: after.to_owned() }
    }

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    #[test]
    fn refuses_what_has_changed_and_takes_the_others_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let (first, second) = (folder.path().join("a"), folder.path().join("b"));
        fs::write(&first, "1").expect("a file");
        fs::write(&second, "somebody else's").expect("a file");
        let edits = [edit(&first, Some("1"), "2"), edit(&second, Some("old"), "new")];
        let error = replace(&edits, jiff::Timestamp::UNIX_EPOCH).expect_err("b has changed");
        assert!(matches!(&error, Error::Changed { path } if path.ends_with("b")), "{error}");
        assert_eq!(fs::read_to_string(&first).expect("a file"), "1");
        assert_eq!(names(folder.path()), ["a", "b"]);
        // A file that shall be new and is there by now.
        assert!(replace(&[edit(&second, None, "new")], jiff::Timestamp::UNIX_EPOCH).is_err());
    }

    #[test]
    fn takes_back_only_what_it_wrote() {
        let folder = tempfile::tempdir().expect("a folder");
        let (old, new) = (folder.path().join("old"), folder.path().join("conf.d/new"));
        fs::write(&old, "1").expect("a file");
        let edits = [edit(&old, Some("1"), "2"), edit(&new, None, "x")];
        let replaced = replace(&edits, jiff::Timestamp::UNIX_EPOCH).expect("written");
        assert_eq!(names(folder.path()), ["conf.d", "old", "old.packhorse-19700101T000000Z.bak"]);
        fs::write(&old, "3").expect("somebody writes it");
        assert!(replaced.take_back().is_err());
        assert_eq!(fs::read_to_string(&old).expect("a file"), "3");
        assert!(!new.exists());
        assert_eq!(names(folder.path()), ["conf.d", "old", "old.packhorse-19700101T000000Z.bak"]);
    }

    #[test]
    fn backups_of_one_second_have_different_names() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("a");
        fs::write(&path, "1").expect("a file");
        for (before, after) in [("1", "2"), ("2", "3")] {
            let _ = replace(&[edit(&path, Some(before), after)], jiff::Timestamp::UNIX_EPOCH).expect("written");
        }
        assert_eq!(
            names(folder.path()),
            ["a", "a.packhorse-19700101T000000Z-1.bak", "a.packhorse-19700101T000000Z.bak"]
        );
    }
}
