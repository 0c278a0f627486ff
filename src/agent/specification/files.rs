//! Our files in the CDI directory, and the index of them in memory: by name, slot and pod.
//!
//! A file comes into being whole: it is written beside its place under a name that no runtime reads, then renamed. The index is
//! changed under the same lock as our files. What an agent that died left half-written is removed at the next start.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use serde_json::Value;

use super::error::io_error;
use super::{DeviceName, Recorded, SpecificationError, random};

/// Annotation: the UID of the pod.
pub(super) const POD_UID: &str = "packhorse.dev/pod-uid";
/// Annotation: the container's name.
pub(super) const CONTAINER: &str = "packhorse.dev/container";
/// Annotation: the container's slots, comma-separated.
pub(super) const SLOTS: &str = "packhorse.dev/slots";

const PREFIX: &str = "packhorse.dev-gpu_";
const SUFFIX: &str = ".json";
/// Beginning and end of what is being written. Runtimes read `*.json` and `*.yaml` alone.
const UNFINISHED: (&str, &str) = (".packhorse.dev-gpu_", ".tmp");
/// Nobody writes a file for so long: who began it is dead.
const ABANDONED: Duration = Duration::from_secs(60);

/// The directory.
#[derive(Debug)]
pub(super) struct Files {
    directory: PathBuf,
    index: Mutex<Index>,
}

#[derive(Debug, Default)]
struct Index {
    by_name: BTreeMap<DeviceName, Recorded>,
    by_slot: HashMap<String, Vec<DeviceName>>,
}

impl Files {
    /// Reads what is there.
    pub(super) fn open(directory: PathBuf, create: bool) -> Result<Self, SpecificationError> {
        if create {
            fs::create_dir_all(&directory).map_err(io_error("create", &directory))?;
        }
        let files = Self { directory, index: Mutex::default() };
        files.remove_abandoned()?;
        files.scan()?;
        Ok(files)
    }

    /// Puts a file in its place, replacing what is there.
    pub(super) fn write(&self, recorded: Recorded, content: &str) -> Result<(), SpecificationError> {
        let path = self.path(&recorded.name);
        let unfinished = self.directory.join(format!(
            "{}{}.{:016x}{}",
            UNFINISHED.0,
            recorded.name,
            u64::from_ne_bytes(random()?),
            UNFINISHED.1
        ));
        let written = match create(&unfinished, content) {
            // Somebody cleaned the directory away.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.directory).and_then(|()| create(&unfinished, content))
            }
            written => written,
        };
        let mut index = self.lock();
        match written.and_then(|()| fs::rename(&unfinished, &path)) {
            Ok(()) => {
                index.insert(recorded);
                Ok(())
            }
            Err(error) => {
                // The error that counts is the first; what is left is removed at the next start.
                let _ = fs::remove_file(&unfinished);
                Err(io_error("write", &path)(error))
            }
        }
    }

    pub(super) fn remove(&self, name: &DeviceName) -> Result<(), SpecificationError> {
        self.remove_all(&mut self.lock(), vec![name.clone()])
    }

    pub(super) fn forget_slots(&self, slots: &[String]) -> Result<(), SpecificationError> {
        let mut index = self.lock();
        let names = slots.iter().filter_map(|slot| index.by_slot.get(slot)).flatten().cloned().collect();
        self.remove_all(&mut index, names)
    }

    pub(super) fn forget_pod(&self, uid: &str) -> Result<(), SpecificationError> {
        let mut index = self.lock();
        let names = index.by_name.values().filter(|one| &*one.pod_uid == uid).map(|one| one.name.clone()).collect();
        self.remove_all(&mut index, names)
    }

    /// Brings the index up to the directory, which another agent may have changed. Removes what cannot be read. Files are read
    /// without the lock: `Allocate` waits for it.
    pub(super) fn scan(&self) -> Result<Vec<Recorded>, SpecificationError> {
        let mut found = BTreeMap::new();
        for path in self.paths(is_ours)? {
            match read(&path) {
                Ok(recorded) => {
                    found.insert(recorded.name.clone(), recorded);
                }
                Err(Unusable::Gone) => {}
                Err(Unusable::Damaged(reason)) => {
                    tracing::warn!(path = %path.display(), reason, "removed a CDI specification of ours that cannot be read");
                    unlink(&path)?;
                }
            }
        }
        let mut index = self.lock();
        let exists = |name: &DeviceName| self.path(name).exists();
        // What differs may be a change of ours meanwhile.
        let gone = index.by_name.keys().filter(|name| !found.contains_key(name) && !exists(name));
        for name in gone.cloned().collect::<Vec<_>>() {
            index.remove(&name);
        }
        for (name, recorded) in found {
            if !index.by_name.contains_key(&name) && exists(&name) {
                index.insert(recorded);
            }
        }
        Ok(index.by_name.values().cloned().collect())
    }

    /// All are tried; the first error is told.
    fn remove_all(&self, index: &mut Index, names: Vec<DeviceName>) -> Result<(), SpecificationError> {
        let mut outcome = Ok(());
        for name in names {
            match unlink(&self.path(&name)) {
                Ok(()) => index.remove(&name),
                Err(error) => outcome = outcome.and(Err(error)),
            }
        }
        outcome
    }

    /// An agent that still runs beside this one may be writing just now, hence the age.
    fn remove_abandoned(&self) -> Result<(), SpecificationError> {
        for path in self.paths(is_unfinished)? {
            let age = fs::metadata(&path).and_then(|meta| meta.modified()).ok().and_then(|time| time.elapsed().ok());
            if age.is_some_and(|age| age > ABANDONED) {
                unlink(&path)?;
            }
        }
        Ok(())
    }

    fn paths(&self, wanted: fn(&Path) -> bool) -> Result<Vec<PathBuf>, SpecificationError> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(io_error("read", &self.directory)(error)),
        };
        let paths = entries.map(|entry| entry.map(|entry| entry.path()));
        paths
            .filter(|path| path.as_ref().map_or(true, |path| wanted(path)))
            .collect::<io::Result<_>>()
            .map_err(io_error("read", &self.directory))
    }

    fn path(&self, name: &DeviceName) -> PathBuf {
        self.directory.join(format!("{PREFIX}{name}{SUFFIX}"))
    }

    fn lock(&self) -> MutexGuard<'_, Index> {
        // A panic between two changes of the index leaves at worst a slot's name too many, whose removal finds nothing.
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Index {
    fn insert(&mut self, recorded: Recorded) {
        self.remove(&recorded.name);
        for slot in &recorded.slots {
            self.by_slot.entry(slot.clone()).or_default().push(recorded.name.clone());
        }
        self.by_name.insert(recorded.name.clone(), recorded);
    }

    fn remove(&mut self, name: &DeviceName) {
        let Some(recorded) = self.by_name.remove(name) else { return };
        for slot in &recorded.slots {
            if let Some(names) = self.by_slot.get_mut(slot) {
                names.retain(|other| other != name);
                if names.is_empty() {
                    self.by_slot.remove(slot);
                }
            }
        }
    }
}

/// Why a file of ours tells nothing.
enum Unusable {
    /// Another agent removed it meanwhile.
    Gone,
    Damaged(String),
}

/// Whether a path is a finished file of ours.
pub(super) fn is_ours(path: &Path) -> bool {
    named(path, PREFIX, SUFFIX)
}

pub(super) fn is_unfinished(path: &Path) -> bool {
    named(path, UNFINISHED.0, UNFINISHED.1)
}

fn named(path: &Path, prefix: &str, suffix: &str) -> bool {
    let name = path.file_name().and_then(|name| name.to_str());
    name.is_some_and(|name| name.starts_with(prefix) && name.ends_with(suffix))
}

fn read(path: &Path) -> Result<Recorded, Unusable> {
    let damaged = |reason: &str| Unusable::Damaged(reason.to_owned());
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let name = name.strip_prefix(PREFIX).and_then(|name| name.strip_suffix(SUFFIX)).and_then(DeviceName::new);
    let name = name.ok_or_else(|| damaged("its name is none of ours"))?;
    let text = fs::read_to_string(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Unusable::Gone,
        _ => Unusable::Damaged(error.to_string()),
    })?;
    let document: Value = serde_json::from_str(&text).map_err(|error| Unusable::Damaged(error.to_string()))?;
    let annotation = |key: &str| document["annotations"][key].as_str();
    let (Some(pod_uid), Some(container), Some(slots)) = (annotation(POD_UID), annotation(CONTAINER), annotation(SLOTS))
    else {
        return Err(damaged("it does not say whose it is"));
    };
    let slots = slots.split(',').filter(|slot| !slot.is_empty()).map(str::to_owned).collect();
    Ok(Recorded { name, pod_uid: Arc::from(pod_uid), container: Arc::from(container), slots })
}

/// Readable by everybody whatever the umask: runtimes may run as somebody else.
fn create(path: &Path, content: &str) -> io::Result<()> {
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o644).open(path)?;
    file.set_permissions(fs::Permissions::from_mode(0o644))?;
    file.write_all(content.as_bytes())
}

fn unlink(path: &Path) -> Result<(), SpecificationError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", path)(error)),
        _ => Ok(()),
    }
}
