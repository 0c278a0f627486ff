//! What `Allocate` answers. It does not know the pod, hence not the devices: the answer names a CDI device whose content is written
//! when the container starts. The kubelet keeps the answer for the container's life, in its checkpoint too.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::agent::options::Strategy;
use crate::agent::slots;
use crate::agent::specification::{DeviceName, Form};
use crate::kubelet_api::device_plugin as api;

/// What decides how an answer looks, the same for every container of the node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReplySettings {
    /// At least one; NVIDIA's default is `envvar` alone.
    pub strategies: Vec<Strategy>,
    /// Before the annotation's name, with its `/`; NVIDIA's default is `cdi.k8s.io/`.
    pub annotation_prefix: String,
    /// NVIDIA's `--pass-device-specs`: the control nodes, which belong to no device, are passed by the kubelet.
    pub pass_device_specs: bool,
    /// Where the host's `/dev` is found, as the runtime sees it: NVIDIA's driver or device root, usually `/`.
    pub dev_root: PathBuf,
    /// The control nodes are looked for here, as this process sees the same root.
    pub own_dev_root: PathBuf,
    /// Further variables of every answer, for example `NVIDIA_GDRCOPY=enabled`.
    pub features: BTreeMap<String, String>,
}

impl Default for ReplySettings {
    fn default() -> Self {
        Self {
            strategies: vec![Strategy::Envvar],
            annotation_prefix: "cdi.k8s.io/".to_owned(),
            pass_device_specs: false,
            dev_root: PathBuf::from("/"),
            own_dev_root: PathBuf::from("/"),
            features: BTreeMap::new(),
        }
    }
}

/// Device nodes that every container with a GPU needs and that belong to no card, as NVIDIA's plugin passes them
/// (internal/plugin/server.go `apiDeviceSpecs`).
const CONTROL_NODES: [&str; 4] = ["/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/nvidia-uvm-tools", "/dev/nvidia-modeset"];

/// Read by NVIDIA's runtime: <https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/docker-specialized.html>.
const VISIBLE_DEVICES: &str = "NVIDIA_VISIBLE_DEVICES";

impl ReplySettings {
    /// The control nodes of this node that exist now; empty unless they are to be passed.
    pub(super) fn control_nodes(&self) -> Vec<api::DeviceSpec> {
        let below = |root: &Path, path: &str| root.join(path.trim_start_matches('/'));
        CONTROL_NODES
            .iter()
            .filter(|path| self.pass_device_specs && below(&self.own_dev_root, path).exists())
            .map(|path| api::DeviceSpec {
                container_path: (*path).to_owned(),
                host_path: below(&self.dev_root, path).to_string_lossy().into_owned(),
                permissions: "rw".to_owned(),
            })
            .collect()
    }

    /// The answer for one container whose CDI device is called `name`; in form `none` the runtime could not read it.
    ///
    /// The variable is `void` in every case: it keeps an image's `all` from its effect. The pod's own variable, and what the
    /// specification sets, win over it.
    pub(super) fn reply(
        &self,
        name: &DeviceName,
        form: Form,
        control_nodes: &[api::DeviceSpec],
    ) -> api::ContainerAllocateResponse {
        let mut envs = self.features.clone();
        envs.insert(VISIBLE_DEVICES.to_owned(), "void".to_owned());
        let mut reply = api::ContainerAllocateResponse { envs, devices: control_nodes.to_vec(), ..Default::default() };
        if form == Form::None {
            return reply;
        }
        let has = |strategy| self.strategies.contains(&strategy);
        if has(Strategy::CdiAnnotations) {
            reply.annotations.insert(format!("{}packhorse_{name}", self.annotation_prefix), name.qualified());
        }
        // A runtime that reads annotations too would be handed the same device twice; it takes it once.
        if has(Strategy::Envvar) || has(Strategy::VolumeMounts) || has(Strategy::CdiCri) {
            reply.cdi_devices.push(api::CdiDevice { name: name.qualified() });
        }
        reply
    }
}

/// Refuses what is no slot of ours. A slot of a device that is not there any more is accepted: slots carry no meaning for
/// placement, and the kubelet may be quicker than our list.
pub(super) fn check(resource: &str, ids: &[String]) -> Result<(), String> {
    if ids.is_empty() {
        return Err(format!("{resource}: the kubelet allocates no slots at all to a container; nothing is allocated"));
    }
    match ids.iter().find(|id| slots::device(id).is_none()) {
        Some(id) => Err(format!(
            "{resource}: {id:?} is not a slot of Packhorse (<device UUID>::<number>); another device plugin served this \
             resource before: drain the node and restart its kubelet"
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name() -> DeviceName {
        DeviceName::from_qualified("packhorse.dev/gpu=0123").unwrap()
    }

    fn reply(strategies: &[Strategy], form: Form) -> api::ContainerAllocateResponse {
        ReplySettings { strategies: strategies.to_vec(), ..ReplySettings::default() }.reply(&name(), form, &[])
    }

    #[test]
    fn each_strategy_names_the_container_s_own_cdi_device_and_no_card() {
        let field: &[&str] = &["packhorse.dev/gpu=0123"];
        let annotation: &[(&str, &str)] = &[("cdi.k8s.io/packhorse_0123", "packhorse.dev/gpu=0123")];
        for (strategies, form, fields, annotations) in [
            (vec![Strategy::Envvar], Form::Full, field, &[][..]),
            (vec![Strategy::Envvar], Form::Env, field, &[]),
            (vec![Strategy::Envvar], Form::None, &[], &[]),
            (vec![Strategy::VolumeMounts], Form::Full, field, &[]),
            (vec![Strategy::CdiCri], Form::Full, field, &[]),
            (vec![Strategy::CdiAnnotations], Form::Full, &[], annotation),
            (vec![Strategy::CdiAnnotations, Strategy::CdiCri], Form::Full, field, annotation),
        ] {
            let reply = reply(&strategies, form);
            let case = format!("{strategies:?} {form:?}");
            assert_eq!(reply.cdi_devices.iter().map(|device| &*device.name).collect::<Vec<_>>(), fields, "{case}");
            let found: Vec<_> = reply.annotations.iter().map(|(key, value)| (&**key, &**value)).collect();
            assert_eq!(found, annotations, "{case}");
            assert_eq!(reply.envs, BTreeMap::from([(VISIBLE_DEVICES.to_owned(), "void".to_owned())]), "{case}");
            assert!(reply.mounts.is_empty() && reply.devices.is_empty(), "{case}");
        }
    }

    #[test]
    fn control_nodes_are_passed_where_they_exist_and_are_asked_for() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("dev")).unwrap();
        for node in ["nvidiactl", "nvidia-uvm", "nvidia0"] {
            std::fs::write(root.path().join("dev").join(node), "").unwrap();
        }
        let mut settings = ReplySettings {
            dev_root: "/run/nvidia/driver".into(),
            own_dev_root: root.path().to_owned(),
            ..ReplySettings::default()
        };
        assert_eq!(settings.control_nodes(), []);
        settings.pass_device_specs = true;
        let nodes = settings.control_nodes();
        let found: Vec<_> = nodes.iter().map(|n| (&*n.container_path, &*n.host_path, &*n.permissions)).collect();
        assert_eq!(
            found,
            [
                ("/dev/nvidiactl", "/run/nvidia/driver/dev/nvidiactl", "rw"),
                ("/dev/nvidia-uvm", "/run/nvidia/driver/dev/nvidia-uvm", "rw")
            ]
        );
        assert_eq!(settings.reply(&name(), Form::Full, &nodes).devices, nodes);
    }

    #[test]
    fn features_are_added_to_every_answer() {
        let features = BTreeMap::from([("NVIDIA_GDRCOPY".to_owned(), "enabled".to_owned())]);
        let reply = ReplySettings { features, ..ReplySettings::default() }.reply(&name(), Form::Full, &[]);
        assert_eq!(reply.envs["NVIDIA_GDRCOPY"], "enabled");
        assert_eq!(reply.envs[VISIBLE_DEVICES], "void");
    }

    #[test]
    fn what_is_no_slot_is_refused_by_its_name() {
        let ids = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        for (case, expected) in [
            (ids(&["GPU-1::0", "GPU-gone::9"]), None),
            (ids(&["GPU-1::0", "GPU-1"]), Some("\"GPU-1\"")),
            (ids(&[]), Some("no slots")),
        ] {
            match (check("nvidia.com/gpu", &case), expected) {
                (Ok(()), None) => {}
                (Err(error), Some(part)) => {
                    assert!(error.contains(part) && error.contains("nvidia.com/gpu"), "{error}")
                }
                (result, _) => panic!("{case:?}: {result:?}"),
            }
        }
    }
}
