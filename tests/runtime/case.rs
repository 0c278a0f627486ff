//! The cases of the configuration tests: a file each, with what is there, what is asked for, and what shall come of it.
//!
//! ```text
//! What this is, in a sentence or two.
//! default                      as in `--set-as-default`
//! release: 1.7                 what is known of the containerd
//! == /etc/containerd/config.toml
//! …
//! == result
//! note: …
//! the difference, or `refused: …`, or `nothing to change`
//! ```
//!
//! `PACKHORSE_BLESS=1 cargo test` writes the results anew; look at the difference then.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use packhorse::runtime::{Edit, File, Plan, Refusal, Registration, containerd, crio, docker, rancher};

/// One case.
#[derive(Debug)]
pub(crate) struct Case {
    /// The file, less its ending.
    pub(crate) name: String,
    path: PathBuf,
    head: String,
    options: BTreeMap<String, String>,
    /// In the order of the file.
    pub(crate) files: Vec<File>,
    result: String,
}

/// All cases of a folder, by name.
pub(crate) fn all(folder: &str) -> Vec<Case> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/runtime").join(folder);
    let entries = fs::read_dir(&folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("a readable folder").path()).collect();
    paths.sort();
    paths.iter().map(|path| Case::read(path)).collect()
}

impl Case {
    fn read(path: &Path) -> Self {
        let text = fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let mut parts = text.split("\n== ");
        let head = parts.next().unwrap_or_default().to_owned();
        let mut files = Vec::new();
        let mut result = String::new();
        for part in parts {
            let (title, body) = part.split_once('\n').unwrap_or((part, ""));
            let body =
                if body.is_empty() { String::new() } else { format!("{}\n", body.strip_suffix('\n').unwrap_or(body)) };
            match title.trim_end() {
                "result" => result = body,
                title => match title.strip_suffix(" (absent)") {
                    Some(path) => files.push(File::absent(path)),
                    None => files.push(File::new(title, body)),
                },
            }
        }
        let mut options = BTreeMap::new();
        for line in head.lines().skip(1) {
            let (key, value) = line.split_once(": ").unwrap_or((line, ""));
            let known = [
                "default",
                "no cdi",
                "program",
                "name",
                "release",
                "drop-in",
                "not imported",
                "target",
                "rke2",
                "only",
            ];
            if known.contains(&key) {
                options.insert(key.to_owned(), value.to_owned());
            }
        }
        let name = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
        Self { name, path: path.to_owned(), head, options, files, result }
    }

    pub(crate) fn option(&self, name: &str) -> Option<&str> {
        self.options.get(name).map(String::as_str)
    }

    pub(crate) fn wanted(&self) -> Registration {
        Registration {
            name: self.option("name").unwrap_or("nvidia").to_owned(),
            program: self.option("program").map(ToOwned::to_owned),
            default: self.option("default").is_some(),
            cdi: self.option("no cdi").is_none(),
            ..Registration::default()
        }
    }

    /// The file by a path of the case.
    pub(crate) fn file(&self, path: &str) -> File {
        self.files.iter().find(|file| file.path == Path::new(path)).cloned().unwrap_or_else(|| File::absent(path))
    }

    /// The files after the edits.
    pub(crate) fn after(&self, edits: &[Edit]) -> Self {
        let mut files = self.files.clone();
        for edit in edits {
            let now = File::new(&edit.path, &edit.after);
            match files.iter_mut().find(|file| file.path == edit.path) {
                Some(file) => *file = now,
                None => files.push(now),
            }
        }
        Self {
            name: self.name.clone(),
            path: self.path.clone(),
            head: self.head.clone(),
            options: self.options.clone(),
            files,
            result: self.result.clone(),
        }
    }

    pub(crate) fn plan_containerd(&self) -> Result<Plan, Refusal> {
        let drop_in = self.option("drop-in").map(|path| self.file(path));
        let mut files = self.files.clone();
        let mut drop_in_is_imported = true;
        if let Some(drop_in) = &drop_in {
            // After the first run it is imported, as the main file names it.
            let named = files[0].text.as_deref().unwrap_or_default().contains(&drop_in.path.display().to_string());
            drop_in_is_imported = self.option("not imported").is_none() || named;
            files.retain(|file| file.path != drop_in.path || drop_in_is_imported && file.text.is_some());
        }
        let release = self.option("release").map(containerd::Release::of_version_output).unwrap_or_default();
        containerd::plan(containerd::Configuration { files, drop_in, drop_in_is_imported, release }, &self.wanted())
    }

    pub(crate) fn plan_docker(&self) -> Result<Plan, Refusal> {
        docker::plan(self.file("/etc/docker/daemon.json"), &self.wanted())
    }

    pub(crate) fn plan_crio(&self) -> Result<Plan, Refusal> {
        let target = self.option("target").unwrap_or("/etc/crio/crio.conf.d/99-nvidia.toml").into();
        let mut files = self.files.clone();
        if !files.iter().any(|file| file.path == target) {
            files.push(File::absent(&target));
        }
        // The main file, then the drop-ins by name.
        let is_drop_in = |file: &File| file.path.parent().is_some_and(|folder| folder.ends_with("crio.conf.d"));
        files.sort_by_key(|file| (is_drop_in(file), file.path.clone()));
        crio::plan(&crio::Configuration { files, target }, &self.wanted())
    }

    /// What k3s' or RKE2's own settings say is in files below `/etc/rancher`.
    pub(crate) fn plan_rancher(&self) -> Result<Plan, Refusal> {
        let distribution = if self.option("rke2").is_some() { "rke2" } else { "k3s" };
        let folder = format!("/var/lib/rancher/{distribution}/agent/etc/containerd");
        let templates = match self.option("only") {
            Some(path) => vec![self.file(path)],
            None => {
                ["config-v3.toml.tmpl", "config.toml.tmpl"].map(|name| self.file(&format!("{folder}/{name}"))).to_vec()
            }
        };
        let settings_drop_in = PathBuf::from(format!("/etc/rancher/{distribution}/config.yaml.d/99-packhorse.yaml"));
        let mut settings: Vec<File> =
            self.files.iter().filter(|file| file.path.starts_with("/etc/rancher")).cloned().collect();
        if !settings.iter().any(|file| file.path == settings_drop_in) {
            settings.push(File::absent(&settings_drop_in));
        }
        let is_drop_in = |file: &File| file.path.parent().is_some_and(|folder| folder.ends_with("config.yaml.d"));
        settings.sort_by_key(|file| (is_drop_in(file), file.path.clone()));
        let rendered = self.file(&format!("{folder}/config.toml"));
        let configuration = rancher::Configuration { distribution, templates, rendered, settings, settings_drop_in };
        rancher::plan(configuration, &self.wanted())
    }

    /// The same case in another folder.
    pub(crate) fn moved(&self, from: &str, to: &Path) -> Self {
        let to = to.display().to_string();
        let mut moved = self.after(&[]);
        for file in &mut moved.files {
            file.path = file.path.display().to_string().replace(from, &to).into();
            file.text = file.text.take().map(|text| text.replace(from, &to));
        }
        for value in moved.options.values_mut() {
            *value = value.replace(from, &to);
        }
        moved
    }

    /// Compares what came with the case's result. With `PACKHORSE_BLESS` it becomes the case's result.
    pub(crate) fn compare(&self, outcome: &Result<Plan, Refusal>) {
        let told = told(outcome);
        if std::env::var_os("PACKHORSE_BLESS").is_some() {
            let text = fs::read_to_string(&self.path).expect("a case");
            let before = text.split("\n== result").next().unwrap_or_default();
            fs::write(&self.path, format!("{before}\n== result\n{told}")).expect("a case");
            return;
        }
        assert_eq!(told, self.result, "{}", self.path.display());
    }
}

/// An outcome as a case tells it.
fn told(outcome: &Result<Plan, Refusal>) -> String {
    let plan = match outcome {
        Ok(plan) => plan,
        Err(refusal) => return format!("refused: {refusal}\n"),
    };
    let mut text: String = plan.notes.iter().map(|note| format!("note: {note}\n")).collect();
    if plan.edits.is_empty() {
        text.push_str("nothing to change\n");
    }
    plan.edits.iter().for_each(|edit| text.push_str(&edit.diff()));
    text
}
