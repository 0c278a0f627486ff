//! From NVIDIA's configuration to our values. Every key is either taken over or noted; values that NVIDIA's plugin refuses are errors.

use std::fmt::Display;

use serde_saphyr::Spanned;

use super::keys::Row;
use super::nvidia::{
    Document, Entry, Flags, Gfd, Given, Imex, OneOrMore, Pattern, Plugin, Replicated, Resources, Sharing,
};
use super::values::Values;
use super::{ImportError, Imported, Note};
use crate::agent::view::GPU;

const MIG_STRATEGIES: &str = "none, single or mixed";
const LIST_STRATEGIES: [&str; 4] = ["envvar", "volume-mounts", "cdi-annotations", "cdi-cri"];

/// Takes a configuration over.
///
/// # Errors
/// [`ImportError::Value`] for what NVIDIA's plugin would refuse.
pub fn translate(document: &Document) -> Result<Imported, ImportError> {
    let mut import = Import::default();
    if let Some(flags) = &document.flags {
        import.flags(flags)?;
    }
    if let Some(resources) = &document.resources {
        import.resources(resources);
    }
    if let Some(sharing) = &document.sharing {
        import.sharing(sharing)?;
    }
    if let Some(imex) = &document.imex {
        import.imex(imex)?;
    }
    Ok(Imported { name: None, values: import.values, notes: import.notes })
}

#[derive(Default)]
struct Import {
    values: Values,
    notes: Vec<Note>,
}

impl Import {
    fn flags(&mut self, flags: &Flags) -> Result<(), ImportError> {
        let agent = &mut self.values.agent;
        agent.mig_strategy =
            one_of("flags.migStrategy", &flags.mig_strategy, &["none", "single", "mixed"], MIG_STRATEGIES)?;
        agent.fail_on_init_error = flags.fail_on_init_error.as_ref().map(|value| value.value);
        agent.driver_root = absolute("flags.nvidiaDriverRoot", &flags.nvidia_driver_root)?;
        if let Some(path) = absolute("flags.nvidiaDevRoot", &flags.nvidia_dev_root)? {
            agent.nvidia_config.dev_root(&path);
        }
        self.judge("flags.gdrcopyEnabled", &flags.gdrcopy_enabled);
        self.judge("flags.gdsEnabled", &flags.gds_enabled);
        self.judge("flags.mofedEnabled", &flags.mofed_enabled);
        self.judge("flags.mpsRoot", &flags.mps_root);
        let strategy = &flags.device_discovery_strategy;
        one_of("flags.deviceDiscoveryStrategy", strategy, &["auto", "nvml", "tegra"], "auto, nvml or tegra")?;
        self.judge("flags.deviceDiscoveryStrategy", strategy);
        self.judge("flags.restartOnDeviceUnhealthy", &flags.restart_on_device_unhealthy);
        self.judge("flags.useNodeFeatureAPI", &flags.use_node_feature_api);
        flags.plugin.as_ref().map_or(Ok(()), |plugin| self.plugin(plugin))?;
        if let Some(gfd) = &flags.gfd {
            self.gfd(gfd);
        }
        Ok(())
    }

    fn plugin(&mut self, plugin: &Plugin) -> Result<(), ImportError> {
        let agent = &mut self.values.agent;
        agent.pass_device_specs = plugin.pass_device_specs.as_ref().map(|value| value.value);
        if let Some(given) = &plugin.device_list_strategy {
            agent.device_list_strategy = list_strategies(given)?;
        }
        let by = &plugin.device_id_strategy;
        agent.device_id_strategy = one_of("flags.plugin.deviceIDStrategy", by, &["uuid", "index"], "uuid or index")?;
        if let Some(prefix) = &plugin.cdi_annotation_prefix {
            let key = "flags.plugin.cdiAnnotationPrefix";
            ensure(!prefix.value.is_empty(), key, prefix, &prefix.value, "a text that is not empty")?;
            agent.nvidia_config.cdi_annotation_prefix(&prefix.value);
        }
        self.judge("flags.plugin.nvidiaCTKPath", &plugin.nvidia_ctk_path);
        self.judge("flags.plugin.containerDriverRoot", &plugin.container_driver_root);
        let policy = &plugin.shared_devices_allocation_policy;
        let key = "flags.plugin.sharedDevicesAllocationPolicy";
        one_of(key, policy, &["distributed", "packed"], "distributed or packed")?;
        self.judge(key, policy);
        Ok(())
    }

    fn gfd(&mut self, gfd: &Gfd) {
        self.judge("flags.gfd.oneshot", &gfd.oneshot);
        self.judge("flags.gfd.noTimestamp", &gfd.no_timestamp);
        self.judge_text("flags.gfd.sleepInterval", &gfd.sleep_interval, |interval| interval.0.clone());
        self.judge("flags.gfd.outputFile", &gfd.output_file);
        self.judge("flags.gfd.machineTypeFile", &gfd.machine_type_file);
    }

    fn resources(&mut self, resources: &Resources) {
        // What the plugin does by itself: every card is nvidia.com/gpu.
        let usual = |one: &Pattern| one.pattern == "*" && (one.name == "gpu" || one.name == GPU);
        for (key, patterns) in [("resources.gpus", &resources.gpus), ("resources.mig", &resources.mig)] {
            self.judge_text(key, patterns, |list| if list.iter().all(usual) { "[]".to_owned() } else { String::new() });
        }
    }

    fn sharing(&mut self, sharing: &Sharing) -> Result<(), ImportError> {
        match (&sharing.time_slicing, &sharing.mps) {
            (Some(sliced), None) => self.replicated("sharing.timeSlicing", sliced, false),
            (None, Some(mps)) => self.replicated("sharing.mps", mps, true),
            (Some(sliced), Some(mps)) => {
                let line = sliced.resources.first().map_or(0, |entry| entry.name.defined.line());
                let text =
                    "NVIDIA's plugin ignores it beside sharing.mps, and so does this import; remove one of the two";
                self.note("sharing.timeSlicing".to_owned(), line, text.to_owned());
                self.replicated("sharing.mps", mps, true)
            }
            (None, None) => Ok(()),
        }
    }

    fn replicated(&mut self, section: &'static str, given: &Replicated, mps: bool) -> Result<(), ImportError> {
        self.judge(&format!("{section}.renameByDefault"), &given.rename_by_default);
        self.judge(&format!("{section}.failRequestsGreaterThanOne"), &given.fail_requests_greater_than_one);
        for (at, entry) in given.resources.iter().enumerate() {
            self.entry(section, at, entry, mps)?;
        }
        Ok(())
    }

    fn entry(&mut self, section: &str, at: usize, entry: &Entry, mps: bool) -> Result<(), ImportError> {
        let path = |key: &str| format!("{section}.resources[{at}].{key}");
        let replicas = &entry.replicas;
        let number = u16::try_from(replicas.value).ok().filter(|number| *number >= 2);
        let Some(number) = number else {
            let value = replicas.value.to_string();
            return Err(wrong(&path("replicas"), replicas, value, "a number from 2 to 65535"));
        };
        self.judge_row(&format!("{section}.resources[].rename"), path("rename"), &entry.rename, String::clone);
        let devices = |devices: &OneOrMore| if devices.is("all") { "all".to_owned() } else { String::new() };
        self.judge_row(&format!("{section}.resources[].devices"), path("devices"), &entry.devices, devices);
        // NVIDIA's plugin takes a name without its prefix too.
        let given = &entry.name.value;
        let name = if given.contains('/') { given.clone() } else { format!("nvidia.com/{given}") };
        if name != GPU && !name.starts_with("nvidia.com/mig-") {
            let text = format!("no device is handed out as {name}; name nvidia.com/gpu or nvidia.com/mig-<profile>");
            self.note(path("name"), entry.name.defined.line(), text);
            return Ok(());
        }
        if !self.values.agent.nvidia_config.slots(name.clone(), number) {
            return Err(wrong(&path("name"), &entry.name, given.clone(), "a resource that no other entry names"));
        }
        let text = if name == GPU {
            let percent = (100 / number).max(1);
            self.values.config.webhook.count_alone = Some(format!("share-{percent}"));
            // Under strategy `single` the name means instances.
            let single = self.values.agent.mig_strategy.as_deref() == Some("single");
            shares(number, percent, mps, if single { "an instance" } else { "a card" })
        } else {
            format!("at most {number} containers share an instance, each with all of its memory")
        };
        self.note(path("replicas"), replicas.defined.line(), text);
        Ok(())
    }

    fn imex(&mut self, imex: &Imex) -> Result<(), ImportError> {
        if let Some(ids) = &imex.channel_ids {
            ensure(
                ids.value.is_empty() || ids.value == [0],
                "imex.channelIDs",
                ids,
                &format!("{:?}", ids.value),
                "[] or [0]",
            )?;
        }
        let text = |ids: &Vec<u32>| if ids.is_empty() { "[]".to_owned() } else { String::new() };
        self.judge_text("imex.channelIDs", &imex.channel_ids, text);
        self.judge("imex.required", &imex.required);
        Ok(())
    }

    fn judge(&mut self, key: &str, given: &Given<impl Display>) {
        self.judge_text(key, given, ToString::to_string);
    }

    fn judge_text<T>(&mut self, key: &str, given: &Given<T>, text: impl Fn(&T) -> String) {
        self.judge_row(key, key.to_owned(), given, text);
    }

    /// Notes a key by its row unless it asks for what happens anyway.
    fn judge_row<T>(&mut self, row: &str, path: String, given: &Given<T>, text: impl Fn(&T) -> String) {
        let Some(given) = given else { return };
        let row = Row::find(row);
        if row.is_none_or(|row| !row.harmless.contains(&text(&given.value).as_str())) {
            // A key without a row would be a mistake of ours, which a test over all keys finds.
            let note = row.map_or("it has no counterpart", |row| row.note);
            self.note(path, given.defined.line(), note.to_owned());
        }
    }

    fn note(&mut self, key: String, line: u64, text: String) {
        self.notes.push(Note { key, line, text });
    }
}

/// What `nvidia.com/gpu: 1` of a shared card becomes.
fn shares(number: u16, percent: u16, mps: bool, device: &str) -> String {
    let was = if mps { "one of {n} equal parts by MPS" } else { "one of {n} turns without a limit of memory" };
    let mut text = format!(
        "nvidia.com/gpu: 1 alone was {}, and is now {percent} % of {device}'s memory, in the whole cluster; a namespace's label \
         packhorse.dev/count-alone (exclusive, share-<percent>) overrules it, and pods may ask for nvidia.com/gpumem themselves",
        was.replace("{n}", &number.to_string())
    );
    if mps {
        text.push_str("; MPS no longer keeps the limit, see packhorse.dev/require-enforcement for who does");
    }
    if number > 100 {
        text.push_str(&format!("; of such shares only 100 fit on {device}"));
    }
    text
}

fn one_of(
    key: &str,
    given: &Given<String>,
    names: &[&str],
    expected: &'static str,
) -> Result<Option<String>, ImportError> {
    let Some(given) = given else { return Ok(None) };
    ensure(names.contains(&given.value.as_str()), key, given, &given.value, expected)?;
    Ok(Some(given.value.clone()))
}

fn absolute(key: &str, given: &Given<String>) -> Result<Option<String>, ImportError> {
    let Some(given) = given else { return Ok(None) };
    ensure(given.value.starts_with('/'), key, given, &given.value, "an absolute path")?;
    Ok(Some(given.value.clone()))
}

/// In our order, each once: a text may have commas.
fn list_strategies(given: &Spanned<OneOrMore>) -> Result<Vec<String>, ImportError> {
    let names: Vec<&str> = given.value.0.iter().flat_map(|text| text.split(',')).map(str::trim).collect();
    let known = !names.is_empty() && names.iter().all(|name| LIST_STRATEGIES.contains(name));
    let expected = "one or more of envvar, volume-mounts, cdi-annotations and cdi-cri";
    ensure(known, "flags.plugin.deviceListStrategy", given, &names.join(","), expected)?;
    Ok(LIST_STRATEGIES.into_iter().filter(|name| names.contains(name)).map(str::to_owned).collect())
}

fn ensure<T>(
    holds: bool,
    path: &str,
    given: &Spanned<T>,
    value: &str,
    expected: &'static str,
) -> Result<(), ImportError> {
    if holds { Ok(()) } else { Err(wrong(path, given, format!("{value:?}"), expected)) }
}

fn wrong<T>(path: &str, given: &Spanned<T>, value: String, expected: &'static str) -> ImportError {
    ImportError::Value { path: path.to_owned(), line: given.defined.line(), value, expected }
}
