//! NVIDIA's runtime on k3s and RKE2, which write containerd's configuration anew at each start, from a template where there is one.
//!
//! | file | what for |
//! |---|---|
//! | `agent/etc/containerd/config-v3.toml.tmpl` | the template for containerd 2, which is preferred |
//! | `agent/etc/containerd/config.toml.tmpl` | the template for version 2, also read by containerd 2 where it is the only one |
//! | `agent/etc/containerd/config.toml` | the result; never edited |
//! | `/etc/rancher/<k3s\|rke2>/config.yaml.d/` | their own settings; `default-runtime` is the default runtime where a template leaves it to them |
//!
//! A template that calls `{{ template "base" . }}` or goes through `.ExtraRuntimes` names the NVIDIA runtimes that k3s found by itself
//! at its start; naming one twice would keep containerd from starting. So what is added there is conditional.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::template::{Pair, Template};
use super::{Edit, File, Place, Plan, Refusal, Registration};

/// A node's configuration.
#[derive(Debug)]
pub struct Configuration {
    /// `k3s` or `rke2`.
    pub distribution: &'static str,
    /// The templates: version 3's, then version 2's; or the one that the administrator named.
    pub templates: Vec<File>,
    /// What was made of them at the last start.
    pub rendered: File,
    /// The distribution's own settings, in the order in which it reads them, with [`Self::settings_drop_in`] among them.
    pub settings: Vec<File>,
    /// The file for a setting of ours.
    pub settings_drop_in: PathBuf,
}

/// What to change so that `wanted` holds after the next start of k3s or RKE2.
///
/// # Errors
/// [`Refusal`] where a template or a file of settings cannot be read, or something is in a form that is not edited here.
pub fn plan(configuration: Configuration, wanted: &Registration) -> Result<Plan, Refusal> {
    let Configuration { distribution, templates, rendered, settings, settings_drop_in } = configuration;
    let mut plan = Plan { program: wanted.program_over(None), ..Plan::default() };
    let mut default_by_settings = false;
    for file in chosen(templates, &rendered) {
        let mut work = Work::new(file, distribution)?;
        plan.program = work.register(wanted)?;
        if wanted.default {
            if work.follows_settings() {
                default_by_settings = true;
            } else {
                work.set_default(&wanted.name)?;
            }
        }
        if wanted.cdi {
            work.enable_cdi(&mut plan.notes)?;
        }
        plan.edits.extend(work.into_edit());
    }
    if default_by_settings {
        plan.edits.extend(default_setting(&settings, &settings_drop_in, &wanted.name)?);
    }
    Ok(plan)
}

/// The templates to edit: those that are there, else the one for the containerd that ran last, else one for each.
fn chosen(templates: Vec<File>, rendered: &File) -> Vec<File> {
    if templates.len() < 2 {
        return templates;
    }
    if templates.iter().any(|file| file.text.is_some()) {
        return templates.into_iter().filter(|file| file.text.is_some()).collect();
    }
    let version = rendered.text.as_deref().and_then(|text| {
        let line = text.lines().find(|line| line.trim_start().starts_with("version"))?;
        line.split('=').nth(1)?.trim().parse::<i64>().ok()
    });
    match version {
        Some(version) => templates.into_iter().filter(|file| is_version_3(&file.path) == (version >= 3)).collect(),
        None => templates,
    }
}

fn is_version_3(path: &Path) -> bool {
    path.file_name().is_some_and(|name| name.to_string_lossy().contains("v3"))
}

struct Work {
    file: File,
    /// The text as it is; [`Self::file`] has none where there is nothing in it.
    before: Option<String>,
    template: Template,
    distribution: &'static str,
    /// The CRI plugin's name in this version.
    plugin: &'static str,
    /// What to put in place of which stretch of the text.
    splices: Vec<(usize, usize, String)>,
    /// What to add at the end.
    added: String,
}

impl Work {
    fn new(file: File, distribution: &'static str) -> Result<Self, Refusal> {
        let before = file.text.clone();
        let file = File { text: file.text.filter(|text| !text.trim().is_empty()), ..file };
        let template = Template::parse(&file)?;
        let literal = template.tables().first().into_iter().flat_map(|table| &table.keys);
        let literal = literal.filter(|pair| pair.path == ["version"]).find_map(|pair| template.value(pair));
        let version_3 = match literal {
            Some(version) => version == "3",
            None => is_version_3(&file.path),
        };
        let plugin = if version_3 { "io.containerd.cri.v1.runtime" } else { "io.containerd.grpc.v1.cri" };
        Ok(Self { file, before, template, distribution, plugin, splices: Vec::new(), added: String::new() })
    }

    fn path<'a>(&self, below: &[&'a str]) -> Vec<&'a str> {
        ["plugins", self.plugin].into_iter().chain(below.iter().copied()).collect()
    }

    /// Whether k3s adds the runtimes that it finds by itself.
    fn is_extended(&self) -> bool {
        self.file.text.is_none() || self.template.calls("base") || self.template.uses(".ExtraRuntimes")
    }

    /// Whether the default runtime is what k3s' own settings say.
    fn follows_settings(&self) -> bool {
        self.file.text.is_none() || self.template.calls("base") || self.template.uses(".DefaultRuntime")
    }

    /// Registers the runtime; tells its program.
    fn register(&mut self, wanted: &Registration) -> Result<String, Refusal> {
        let runtime = self.path(&["containerd", "runtimes", &wanted.name]);
        let program_key: Vec<&str> = runtime.iter().copied().chain(["options", "BinaryName"]).collect();
        if !self.template.mentions(&runtime) {
            let program = wanted.program_over(None);
            self.add_runtime(&wanted.name, &program);
            return Ok(program);
        }
        let there = self.find(&program_key).and_then(|pair| self.template.value(&pair).map(ToOwned::to_owned));
        if let Some(action) = there.as_deref().filter(|value| value.contains("{{")) {
            return Ok(action.to_owned());
        }
        let program = wanted.program_over(there.as_deref());
        self.set(&program_key, &format!("\"{program}\""))?;
        let type_key: Vec<&str> = runtime.iter().copied().chain(["runtime_type"]).collect();
        self.set(&type_key, "\"io.containerd.runc.v2\"")?;
        Ok(program)
    }

    fn add_runtime(&mut self, name: &str, program: &str) {
        let (plugin, distribution) = (self.plugin, self.distribution);
        let header = format!("plugins.'{plugin}'.containerd.runtimes.'{name}'");
        let body = format!(
            "[{header}]\n  runtime_type = \"io.containerd.runc.v2\"\n[{header}.options]\n  BinaryName = \"{program}\"\n  SystemdCgroup = {{{{ \
             .SystemdCgroup }}}}\n"
        );
        if self.file.text.is_none() {
            self.added.push_str("{{ template \"base\" . }}\n");
        }
        let guarded = self.is_extended();
        let text = if guarded {
            format!(
                "\n# The runtime \"{name}\", unless {distribution} has found one of this name by itself and names it above.\n\
                 {{{{ if not (index .ExtraRuntimes \"{name}\").BinaryName }}}}\n{body}{{{{ end }}}}\n"
            )
        } else {
            format!("\n{body}")
        };
        self.added.push_str(&text);
    }

    fn set_default(&mut self, name: &str) -> Result<(), Refusal> {
        let key = self.path(&["containerd", "default_runtime_name"]);
        self.set(&key, &format!("\"{name}\""))
    }

    fn enable_cdi(&mut self, notes: &mut Vec<String>) -> Result<(), Refusal> {
        let key = self.path(&["enable_cdi"]);
        let there = self.find(&key).and_then(|pair| self.template.value(&pair).map(ToOwned::to_owned));
        let version_3 = self.plugin == "io.containerd.cri.v1.runtime";
        match there.as_deref() {
            Some(value) if value == "true" || value.contains("{{") => Ok(()),
            // On by default in containerd 2.
            None if version_3 => Ok(()),
            None if self.file.text.is_none() || self.template.calls("base") => {
                notes.push(format!(
                    "{}: the base template says whether containerd reads CDI; containerd 2.0 and newer does",
                    self.file.path.display()
                ));
                Ok(())
            }
            _ => self.set(&key, "true"),
        }
    }

    fn pairs<'a>(&'a self, path: &'a [&'a str]) -> impl Iterator<Item = &'a Pair> {
        self.template.tables().iter().flat_map(move |table| {
            let fits =
                move |pair: &&Pair| table.path.iter().chain(&pair.path).map(String::as_str).eq(path.iter().copied());
            table.keys.iter().filter(fits)
        })
    }

    fn find(&self, path: &[&str]) -> Option<Pair> {
        self.pairs(path).next().cloned()
    }

    /// Sets a key: in its place, else in its table, else in a table at the end.
    fn set(&mut self, path: &[&str], literal: &str) -> Result<(), Refusal> {
        let Some((key, above)) = path.split_last() else { return Ok(()) };
        // All of them: the branches of a condition can each have one.
        let pairs: Vec<Pair> = self.pairs(path).cloned().collect();
        if !pairs.is_empty() {
            for pair in &pairs {
                let Some((start, end)) = pair.value else { return Err(self.by_hand(path)) };
                if self.template.value(pair) != Some(literal.trim_matches('"')) {
                    self.splices.push((start, end, literal.to_owned()));
                }
            }
            return Ok(());
        }
        if let Some(table) = self.template.table(above) {
            let body = table.body;
            let text = self.template.text();
            let first = text[body..].lines().next().unwrap_or_default();
            let indent: String = first.chars().take_while(|c| *c == ' ' || *c == '\t').collect();
            let gap = if text[..body].ends_with('\n') { "" } else { "\n" };
            self.splices.push((body, body, format!("{gap}{indent}{key} = {literal}\n")));
            return Ok(());
        }
        // Under a dotted key or in an inline table.
        let (_, parents) = above.split_last().unwrap_or((&"", &[]));
        let inline = self.find(above).is_some() || self.find(parents).is_some() || self.dotted(above);
        if inline {
            return Err(self.by_hand(path));
        }
        let header = above.iter().map(|key| if key.contains('.') { format!("'{key}'") } else { (*key).to_owned() });
        let header = header.collect::<Vec<_>>().join(".");
        self.added.push_str(&format!("\n[{header}]\n  {key} = {literal}\n"));
        Ok(())
    }

    /// Whether the table of this path is made by a dotted key, and can have no header.
    fn dotted(&self, path: &[&str]) -> bool {
        self.template.tables().iter().any(|table| {
            table.path.len() < path.len()
                && table.keys.iter().any(|pair| {
                    table.path.iter().chain(&pair.path).map(String::as_str).take(path.len()).eq(path.iter().copied())
                        && table.path.len() + pair.path.len() > path.len()
                })
        })
    }

    fn by_hand(&self, path: &[&str]) -> Refusal {
        Refusal::Conflict {
            file: self.file.path.clone(),
            message: format!(
                "{} is in a form that is not edited in a template; give it a table of its own",
                path.join(".")
            ),
        }
    }

    fn into_edit(self) -> Option<Edit> {
        let mut after = self.file.text.clone().unwrap_or_default();
        let mut splices = self.splices;
        splices.sort_by_key(|(start, ..)| std::cmp::Reverse(*start));
        for (start, end, text) in splices {
            after.replace_range(start..end, &text);
        }
        if !self.added.is_empty() {
            if !after.is_empty() && !after.ends_with('\n') {
                after.push('\n');
            }
            after.push_str(&self.added);
        }
        if after.contains("\r\n") {
            after = after.replace("\r\n", "\n").replace('\n', "\r\n");
        }
        let before = self.before;
        (before.as_deref() != Some(after.as_str())).then_some(Edit { path: self.file.path, before, after })
    }
}

/// `default-runtime` in the distribution's own settings, where it does not win already.
fn default_setting(settings: &[File], drop_in: &Path, name: &str) -> Result<Option<Edit>, Refusal> {
    let mut winner = None;
    for file in settings {
        if let Some(value) = setting(file)? {
            winner = Some((file, value));
        }
    }
    let ours = settings.iter().position(|file| file.path == drop_in);
    match winner {
        Some((_, value)) if value == name => return Ok(None),
        Some((file, value)) if settings.iter().position(|other| other.path == file.path) > ours => {
            return Err(Refusal::Conflict {
                file: file.path.clone(),
                message: format!(
                    "sets default-runtime to {value} and is read after {}; remove it there",
                    drop_in.display()
                ),
            });
        }
        _ => {}
    }
    let before = settings.iter().find(|file| file.path == drop_in).and_then(|file| file.text.clone());
    let line = format!("default-runtime: {name}");
    let mut lines: Vec<&str> = before.as_deref().unwrap_or_default().lines().collect();
    match lines.iter().position(|line| line.starts_with("default-runtime:")) {
        Some(place) => lines[place] = &line,
        None => lines.push(&line),
    }
    let after = lines.join("\n") + "\n";
    Ok(Some(Edit { path: drop_in.to_owned(), before, after }))
}

fn setting(file: &File) -> Result<Option<String>, Refusal> {
    let Some(text) = file.text.as_deref().filter(|text| !text.trim().is_empty()) else { return Ok(None) };
    let map: Option<BTreeMap<String, serde_json::Value>> = serde_saphyr::from_str(text).map_err(|error| {
        let place = error.location().map(|place| {
            let number = |value: u64| usize::try_from(value).unwrap_or(1);
            Place { line: number(place.line()), column: number(place.column()) }
        });
        Refusal::Syntax {
            file: file.path.clone(),
            place: place.unwrap_or(Place { line: 1, column: 1 }),
            message: crate::yaml::Mistake::new(&error, text).message,
        }
    })?;
    let value = map.as_ref().and_then(|map| map.get("default-runtime")).and_then(serde_json::Value::as_str);
    Ok(value.filter(|value| !value.is_empty()).map(ToOwned::to_owned))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configuration(template: &str) -> Configuration {
        let folder = "/var/lib/rancher/k3s/agent/etc/containerd";
        Configuration {
            distribution: "k3s",
            templates: vec![
                File::new(format!("{folder}/config-v3.toml.tmpl"), template),
                File::absent(format!("{folder}/config.toml.tmpl")),
            ],
            rendered: File::absent(format!("{folder}/config.toml")),
            settings: Vec::new(),
            settings_drop_in: "/etc/rancher/k3s/config.yaml.d/99-packhorse.yaml".into(),
        }
    }

    #[test]
    fn lines_keep_their_ends() {
        let plan = plan(configuration("{{ template \"base\" . }}\r\n[debug]\r\n"), &Registration::default())
            .expect("in order");
        let after = &plan.edits[0].after;
        assert!(after.contains("nvidia") && !after.replace("\r\n", "").contains('\n'), "{after:?}");
    }

    #[test]
    fn every_branch_of_a_condition_is_changed() {
        let options = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia.options]";
        let runtime = "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia]\nruntime_type = \"io.containerd.runc.v2\"\n";
        let text = format!(
            "{runtime}{options}\n{{{{ if .NodeConfig.SELinux }}}}\nBinaryName = \"/a\"\n{{{{ else }}}}\nBinaryName = '/b'\n{{{{ end }}}}\n"
        );
        let wanted = Registration { program: Some("/c".to_owned()), ..Registration::default() };
        let plan = plan(configuration(&text), &wanted).expect("in order");
        assert_eq!(plan.edits[0].after, text.replace("\"/a\"", "\"/c\"").replace("'/b'", "\"/c\""));
    }
}
