//! NVIDIA's runtime in containerd's configuration, versions 1 to 4, with the files it imports.
//!
//! How containerd reads them (`cmd/containerd/server/config/config.go`): the main file first, then what `imports` names, breadth
//! first; a later file wins. Up to 2.0 it wins by whole plugin sections ([`Merging::Sections`]), from 2.1 on by single keys
//! ([`Merging::Keys`]). `version` is one for all of them: the last one read decides how all are understood.

mod release;

use std::path::Path;

use toml_edit::{Item, TableLike, Value};

use super::toml::{Document, bare_copy, full_copy};
use super::{File, Plan, Refusal, Registration};

pub use release::{Merging, Release};

/// The shim for programs with runc's command line, such as NVIDIA's.
const SHIM: &str = "io.containerd.runc.v2";

/// The plugin that serves Kubernetes' containers, as versions 2 and 3 name it.
const CRI_2: &str = "io.containerd.grpc.v1.cri";
const CRI_3: &str = "io.containerd.cri.v1.runtime";

/// A containerd's configuration.
#[derive(Debug)]
pub struct Configuration {
    /// The main file, then what it imports, in the order in which containerd reads them.
    pub files: Vec<File>,
    /// The file to write into, where the administrator wants one of his own; imported by the main file once it is written. None
    /// edits the file that has the last word now.
    pub drop_in: Option<File>,
    /// Whether a pattern in `imports` finds [`Self::drop_in`] already, once it is there.
    pub drop_in_is_imported: bool,
    /// Whose configuration it is.
    pub release: Release,
}

/// What to change so that `wanted` holds.
///
/// # Errors
/// [`Refusal`] where a file cannot be read as containerd reads it, or where the change would have no effect or another one.
pub fn plan(configuration: Configuration, wanted: &Registration) -> Result<Plan, Refusal> {
    Work::new(configuration)?.plan(wanted)
}

struct Work {
    /// In the order of reading; the drop-in is among them.
    files: Vec<Document>,
    drop_in: Option<usize>,
    drop_in_is_imported: bool,
    version: i64,
    merging: Merging,
    notes: Vec<String>,
}

impl Work {
    fn new(configuration: Configuration) -> Result<Self, Refusal> {
        let Configuration { files, drop_in, drop_in_is_imported, release } = configuration;
        let mut documents = files.iter().map(Document::parse).collect::<Result<Vec<_>, _>>()?;
        let Some(main) = documents.first() else { return Ok(Self::empty()) };
        if version_of(main)?.is_none() && !documents.iter().any(names_plugins) {
            // Without plugins all versions mean the same, and version 1 has no future.
            documents[0].set(&["version"], release.fresh_version())?;
        }
        let main = &documents[0];
        let version = version_of(main)?.unwrap_or(1);
        if version == 1 && release.number.is_some_and(|number| number >= (2, 0)) {
            return Err(conflict(
                main.path(),
                "is of version 1, as a file without `version` is, and containerd 2.x does not read its plugins; bring it to version 3 \
                 first (`containerd config migrate`)",
            ));
        }
        if !(1..=4).contains(&version) {
            return Err(conflict(main.path(), format!("version = {version} is none that is known here (1 to 4)")));
        }
        let mut work = Self {
            files: documents,
            drop_in: None,
            drop_in_is_imported,
            version,
            merging: release.merging(version),
            notes: Vec::new(),
        };
        work.note_missing_imports(drop_in.as_ref());
        if let Some(file) = drop_in {
            work.drop_in = Some(work.open_drop_in(&file)?);
        }
        work.refuse_mixed_versions()?;
        work.refuse_sections_of_another_version()?;
        work.note_disabled()?;
        Ok(work)
    }

    fn empty() -> Self {
        Self {
            files: Vec::new(),
            drop_in: None,
            drop_in_is_imported: false,
            version: 2,
            merging: Merging::Sections,
            notes: Vec::new(),
        }
    }

    /// The drop-in's place among the files; one that is not imported yet is read last, as it is imported last.
    fn open_drop_in(&mut self, file: &File) -> Result<usize, Refusal> {
        if self.version == 1 {
            return Err(conflict(
                self.files[0].path(),
                "is of version 1, as a file without `version` is, and has no drop-ins; leave out --drop-in-config, or bring it to \
                 version 2 first (`containerd config migrate`)",
            ));
        }
        let known = self.files.iter().position(|known| known.path() == file.path);
        let place = if let Some(place) = known {
            place
        } else {
            self.files.push(Document::parse(file)?);
            self.files.len() - 1
        };
        let version = self.version;
        let document = &mut self.files[place];
        if !document.exists() {
            document.set(&["version"], version)?;
        }
        Ok(place)
    }

    fn note_missing_imports(&mut self, drop_in: Option<&File>) {
        let main = self.files.first().map(|main| main.path().display().to_string()).unwrap_or_default();
        for file in self.files.iter().skip(1) {
            if !file.exists() && drop_in.is_none_or(|drop_in| drop_in.path != file.path()) {
                let path = file.path().display();
                self.notes.push(format!(
                    "{path}: is imported by {main} and does not exist; containerd does not start without it"
                ));
            }
        }
    }

    /// The keys above the settings of the CRI plugin.
    fn section(&self) -> [&'static str; 2] {
        match self.version {
            1 => ["plugins", "cri"],
            2 => ["plugins", CRI_2],
            _ => ["plugins", CRI_3],
        }
    }

    fn keys<'a>(&self, below: &[&'a str]) -> Vec<&'a str> {
        self.section().into_iter().chain(below.iter().copied()).collect()
    }

    fn refuse_mixed_versions(&self) -> Result<(), Refusal> {
        for file in &self.files[1..] {
            if let Some(version) = version_of(file)?
                && version != self.version
            {
                let main = self.files[0].path().display();
                return Err(conflict(
                    file.path(),
                    format!(
                        "has version {version}, and {main}, which imports it, has version {}: containerd would read both as {version} \
                         and pass over what is written for the other; give both the same version",
                        self.version
                    ),
                ));
            }
        }
        Ok(())
    }

    /// Settings of the CRI plugin under another version's name are read by no containerd, or only by some.
    fn refuse_sections_of_another_version(&mut self) -> Result<(), Refusal> {
        for file in &self.files {
            if self.version == 1 && file.get(&["plugins", CRI_2]).is_some() {
                return Err(conflict(
                    file.path(),
                    format!(
                        "has plugins.\"{CRI_2}\", but no `version = 2`, without which containerd 1.x does not read it; add \
                         `version = 2` as the first line"
                    ),
                ));
            }
            let dead = match self.version {
                1 => None,
                2 => file.get(&["plugins", "cri"]).map(|_| "cri").or(file.get(&["plugins", CRI_3]).map(|_| CRI_3)),
                _ => file.get(&["plugins", CRI_2, "containerd"]).map(|_| CRI_2),
            };
            if let Some(dead) = dead {
                self.notes.push(format!(
                    "{}: plugins.\"{dead}\" is not what containerd reads in version {}; its settings have no effect",
                    file.path().display(),
                    self.version
                ));
            }
        }
        Ok(())
    }

    fn note_disabled(&mut self) -> Result<(), Refusal> {
        for file in &self.files {
            let disabled = file.texts(&["disabled_plugins"])?;
            if let Some(name) = disabled.iter().find(|name| ["cri", CRI_2, CRI_3].contains(name)) {
                self.notes.push(format!(
                    "{}: disabled_plugins holds \"{name}\"; containerd does not serve Kubernetes until it is taken out",
                    file.path().display()
                ));
            }
        }
        Ok(())
    }

    fn plan(mut self, wanted: &Registration) -> Result<Plan, Refusal> {
        if self.files.is_empty() {
            return Ok(Plan::default());
        }
        let name = wanted.name.as_str();
        let home = self.home()?;
        if self.drop_in == Some(home) {
            self.fill_drop_in(home)?;
        }
        let program = self.register(home, wanted)?;
        self.keep_runc(home, name)?;
        if wanted.default {
            self.refuse_deprecated_default()?;
            let place = self.place_of(home, &["containerd", "default_runtime_name"]);
            let keys = self.keys(&["containerd", "default_runtime_name"]);
            if self.last_text(place, &keys)?.as_deref() != Some(name) {
                self.files[place].set(&keys, name)?;
            }
        }
        if wanted.cdi {
            self.enable_cdi(home)?;
        }
        if self
            .drop_in
            .is_some_and(|place| !self.files[place].exists() && self.files[place].get(&["plugins"]).is_none())
        {
            // The other files say all of it already.
            return Ok(Plan { edits: Vec::new(), notes: self.notes, program });
        }
        self.import_drop_in()?;
        self.refuse_what_is_overruled(home, wanted, &program)?;
        let edits = self.files.into_iter().rev().filter_map(Document::into_edit).collect();
        Ok(Plan { edits, notes: self.notes, program })
    }

    /// The file in which the CRI plugin's settings are at home: the drop-in, or where the last word is.
    fn home(&self) -> Result<usize, Refusal> {
        if let Some(drop_in) = self.drop_in {
            return Ok(drop_in);
        }
        let section = self.section();
        let runtimes = self.keys(&["containerd", "runtimes"]);
        let sought: &[&str] = if self.merging == Merging::Sections { &section } else { &runtimes };
        let mut home = 0;
        for (place, file) in self.files.iter().enumerate() {
            if file.table(sought)?.is_some() {
                home = place;
            }
        }
        Ok(home)
    }

    /// Where a key is to be set: in its home, unless a later file has a word on it.
    fn place_of(&self, home: usize, below: &[&str]) -> usize {
        let keys = self.keys(below);
        let holder = self.files.iter().rposition(|file| file.get(&keys).is_some());
        match (self.drop_in, self.merging) {
            (None, Merging::Keys) => holder.unwrap_or(home),
            _ => home,
        }
    }

    /// Where whole sections win, a new drop-in would drop all other settings of the plugin; so it gets a copy of them.
    fn fill_drop_in(&mut self, home: usize) -> Result<(), Refusal> {
        let section = self.section();
        if self.merging == Merging::Keys || self.files[home].table(&section)?.is_some() {
            return Ok(());
        }
        let copied = self.files.iter().enumerate().rev().find_map(|(place, file)| Some((place, file.get(&section)?)));
        let Some((from, section_there)) = copied else { return Ok(()) };
        let copy = full_copy(section_there);
        self.notes.push(format!(
            "{}: repeats the CRI plugin's settings of {}, because containerd before 2.1 takes whole sections from the last file; later \
             changes belong there",
            self.files[home].path().display(),
            self.files[from].path().display()
        ));
        self.files[home].put(&section, copy)
    }

    /// Registers the runtime; tells its program.
    fn register(&mut self, home: usize, wanted: &Registration) -> Result<String, Refusal> {
        let place = self.place_of(home, &["containerd", "runtimes", &wanted.name]);
        let runtime = self.keys(&["containerd", "runtimes", &wanted.name]);
        let program_key: Vec<&str> = runtime.iter().copied().chain(["options", "BinaryName"]).collect();
        let type_key: Vec<&str> = runtime.iter().copied().chain(["runtime_type"]).collect();
        let registered = self.last_text(place, &program_key)?;
        let program = wanted.program_over(registered.as_deref());
        if registered.as_deref() == Some(program.as_str()) && self.last_text(place, &type_key)?.as_deref() == Some(SHIM)
        {
            return Ok(program);
        }
        if self.files[place].table(&runtime)?.is_none()
            && let Some(model) = self.model(place, &wanted.name)?
        {
            self.files[place].put(&runtime, model)?;
        }
        let file = &mut self.files[place];
        file.set(&type_key, SHIM)?;
        file.set(&program_key, program.as_str())?;
        Ok(program)
    }

    /// A copy of the runtime that serves containers now, so that the new one has its cgroup driver and all else in common with it.
    /// Only a runtime of the same shim has options of the same meaning.
    fn model(&self, place: usize, name: &str) -> Result<Option<Item>, Refusal> {
        let default = self.effective_default(place)?;
        for candidate in [default.as_str(), "runc"] {
            let keys = self.keys(&["containerd", "runtimes", candidate]);
            let type_key: Vec<&str> = keys.iter().copied().chain(["runtime_type"]).collect();
            for file in self.readable(place).rev() {
                if candidate != name && file.text(&type_key)? == Some(SHIM) {
                    return Ok(file.get(&keys).map(bare_copy));
                }
            }
        }
        Ok(None)
    }

    /// containerd 1.x forgets the runc that it has by default as soon as a file names any runtime, and then serves no container at
    /// all. So runc is named as well.
    fn keep_runc(&mut self, home: usize, name: &str) -> Result<(), Refusal> {
        if self.version > 2 || self.effective_default(home)? != "runc" && self.effective_default(home)? != name {
            return Ok(());
        }
        let runtimes = self.keys(&["containerd", "runtimes"]);
        for file in self.readable(home) {
            if file.table(&runtimes)?.is_some_and(|table| table.iter().any(|(other, _)| other != name)) {
                return Ok(());
            }
        }
        let keys: Vec<&str> = runtimes.into_iter().chain(["runc", "runtime_type"]).collect();
        self.files[home].set(&keys, SHIM)
    }

    fn effective_default(&self, place: usize) -> Result<String, Refusal> {
        let keys = self.keys(&["containerd", "default_runtime_name"]);
        let named = self.last_text(place, &keys)?.filter(|name| !name.is_empty());
        Ok(named.unwrap_or_else(|| "runc".to_owned()))
    }

    fn last_text(&self, place: usize, keys: &[&str]) -> Result<Option<String>, Refusal> {
        for file in self.readable(place).rev() {
            if let Some(text) = file.text(keys)? {
                return Ok(Some(text.to_owned()));
            }
        }
        Ok(None)
    }

    /// The files whose settings count beside those of the file at `place`.
    fn readable(&self, place: usize) -> impl DoubleEndedIterator<Item = &Document> {
        let range = match self.merging {
            Merging::Keys => 0..self.files.len(),
            Merging::Sections => place..place + 1,
        };
        self.files[range].iter()
    }

    /// containerd 1.x has an older key that overrules `default_runtime_name`.
    fn refuse_deprecated_default(&self) -> Result<(), Refusal> {
        let keys = self.keys(&["containerd", "default_runtime", "runtime_type"]);
        for file in &self.files {
            if file.text(&keys)?.is_some_and(|shim| !shim.is_empty()) {
                return Err(conflict(
                    file.path(),
                    format!(
                        "{} overrules default_runtime_name; remove that table, or do without --set-as-default",
                        keys.join(".")
                    ),
                ));
            }
        }
        Ok(())
    }

    fn enable_cdi(&mut self, home: usize) -> Result<(), Refusal> {
        let place = self.place_of(home, &["enable_cdi"]);
        let keys = self.keys(&["enable_cdi"]);
        let now = self.files[place].get(&keys).and_then(Item::as_bool);
        // On by default from 2.0 on, which is when version 3 came.
        if self.version >= 3 && now.is_none() && self.files[place].get(&keys).is_none() {
            let off = self.readable(place).any(|file| file.get(&keys).and_then(Item::as_bool) == Some(false));
            if !off {
                return Ok(());
            }
        }
        if let Some(item) = self.files[place].get(&keys)
            && now.is_none()
        {
            return Err(self.files[place].shape(&keys, item, "true or false"));
        }
        self.files[place].set(&keys, true)
    }

    fn import_drop_in(&mut self) -> Result<(), Refusal> {
        let Some(drop_in) = self.drop_in else { return Ok(()) };
        if self.drop_in_is_imported || drop_in == 0 {
            return Ok(());
        }
        let path = self.files[drop_in].path().display().to_string();
        self.files[0].add("imports", &path)
    }

    /// A file that is read after the one that was edited must not take the change back.
    fn refuse_what_is_overruled(&self, home: usize, wanted: &Registration, program: &str) -> Result<(), Refusal> {
        let section = self.section();
        for file in self.files.iter().skip(home + 1) {
            let Some(table) = file.table(&section)? else { continue };
            let overruled = match self.merging {
                Merging::Sections => Some("the whole CRI section".to_owned()),
                Merging::Keys => overruled_key(table, wanted, program),
            };
            if let Some(what) = overruled {
                return Err(conflict(
                    file.path(),
                    format!(
                        "is read after {} and overrules {what}; name it with --drop-in-config, or rename one of the two",
                        self.files[home].path().display()
                    ),
                ));
            }
        }
        Ok(())
    }
}

fn overruled_key(section: &dyn TableLike, wanted: &Registration, program: &str) -> Option<String> {
    let containerd = section.get("containerd").and_then(Item::as_table_like);
    let default = containerd.and_then(|table| table.get("default_runtime_name")).and_then(Item::as_str);
    if wanted.default && default.is_some_and(|default| default != wanted.name) {
        return Some("default_runtime_name".to_owned());
    }
    if wanted.cdi && section.get("enable_cdi").and_then(Item::as_bool) == Some(false) {
        return Some("enable_cdi".to_owned());
    }
    let runtime = containerd?.get("runtimes")?.as_table_like()?.get(&wanted.name)?.as_table_like()?;
    let there = runtime.get("options")?.as_table_like()?.get("BinaryName")?.as_str()?;
    (there != program).then(|| format!("runtimes.{}.options.BinaryName", wanted.name))
}

fn version_of(file: &Document) -> Result<Option<i64>, Refusal> {
    match file.get(&["version"]) {
        None => Ok(None),
        Some(Item::Value(Value::Integer(version))) => Ok(Some(*version.value())),
        Some(item) => Err(file.shape(&["version"], item, "a whole number")),
    }
}

fn names_plugins(file: &Document) -> bool {
    ["plugins", "disabled_plugins", "required_plugins"].iter().any(|key| file.get(&[key]).is_some())
}

fn conflict(file: &Path, message: impl Into<String>) -> Refusal {
    Refusal::Conflict { file: file.to_owned(), message: message.into() }
}
