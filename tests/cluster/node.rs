//! A real node: a kubelet of the lab's Kubernetes with a containerd of its own, joined to the lab's cluster.
//!
//! The kubelet's device manager, containerd's shims and the runtime's state have fixed places (`/var/lib/kubelet`,
//! `/run/containerd`), and both look at all cgroups. Each node therefore lives in namespaces in which these are its own
//! (`node/isolate.sh`), and several run side by side. containerd and all containers are in a PID namespace besides: whatever ends the
//! test run ends its first process, and the kernel then all others and their mounts. What can outlive them, empty cgroups and a
//! link, is swept by the next node's start.
//!
//! From outside, a node's folders are below [`Node::directory`].

#[path = "node/cgroups.rs"]
mod cgroups;
#[path = "node/creation.rs"]
mod creation;
#[path = "node/kubelet.rs"]
mod kubelet;
#[path = "node/plugin.rs"]
pub(crate) mod plugin;
#[path = "node/processes.rs"]
mod processes;
#[path = "node/runtime.rs"]
mod runtime;
#[path = "node/sight.rs"]
mod sight;
#[path = "node/standin.rs"]
mod standin;
#[path = "node/workload.rs"]
pub(crate) mod workload;

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use k8s_openapi::api::core::v1::Node as NodeObject;
use kube::Client;
use kube::api::Api;
use packhorse::kubelet_api::pod_resources::pod_resources_lister_client::PodResourcesListerClient;
use packhorse::kubelet_api::pod_resources::{AllocatableResourcesRequest, ListPodResourcesRequest, PodResources};

pub(crate) use runtime::Runtime;
pub(crate) use sight::Sight;
pub(crate) use standin::StandIns;

use super::lab::Lab;
use super::process::Component;
use super::{identity, kubelab, wait};

/// Links to the folders of nodes: the path of a Unix socket has at most 107 bytes, that of a checkout any number.
const LINKS: &str = "/run/packhorse-lab";

/// How containerd is started.
const ISOLATE: &str = include_str!("node/isolate.sh");

static COUNT: AtomicU32 = AtomicU32::new(0);

/// A running node.
pub(crate) struct Node {
    /// Its name in the cluster.
    pub(crate) name: String,
    /// Short, and the same from outside and inside.
    pub(crate) directory: PathBuf,
    /// `/var/lib/kubelet`: has `device-plugins/` and `pod-resources/`.
    pub(crate) kubelet_dir: PathBuf,
    /// The only folder in which containerd looks for CDI specifications.
    pub(crate) cdi_dir: PathBuf,
    /// For whoever runs on the node and keeps something there.
    pub(crate) state_dir: PathBuf,
    /// `/records` in every container of [`workload::pod`].
    pub(crate) records_dir: PathBuf,
    id: String,
    folder: PathBuf,
    client: Client,
    kubelab: &'static Path,
    programs: runtime::Programs,
    kubelet_flags: Vec<String>,
    // In the order in which they end.
    kubelet: Component,
    containerd: Component,
}

impl Node {
    /// Starts a node and waits until it is ready in the cluster and has the image of the probe. `flags` go to the kubelet and win
    /// over the lab's.
    pub(crate) async fn start(lab: &Lab, name: &str, runtime: Runtime, flags: &[&str]) -> Self {
        let started = Instant::now();
        let programs = runtime.programs().expect("Runtime::is_here was asked");
        sweep();
        let id = format!("{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let folder = lab.directory.join(format!("node-{id}"));
        for part in ["kubelet", "cdi", "state", "logs", "records"] {
            fs::create_dir_all(folder.join(part)).expect("a folder of the node");
        }
        fs::create_dir_all(LINKS).expect("a folder for links");
        let directory = Path::new(LINKS).join(&id);
        std::os::unix::fs::symlink(&folder, &directory).expect("a link to the node's folder");

        let cdi_dir = directory.join("cdi");
        runtime.configure(&directory, &cdi_dir);
        kubelet::configure(&directory);
        let kubeconfig = identity::kubelet(&lab.directory, name, &lab.url());
        let mut containerd = Component::start(
            &format!("containerd-{name}"),
            &lab.directory,
            Path::new("unshare"),
            &containerd_arguments(&directory, &id, programs),
        );
        wait_for_containerd(&mut containerd).await;
        let kubelet_flags = kubelet::arguments(&directory, name, &kubeconfig, flags);
        let kubelet = Component::start(
            &format!("kubelet-{name}"),
            &lab.directory,
            Path::new("nsenter"),
            &inside(&containerd, lab.kubelab, &kubelet_flags),
        );
        let mut node = Self {
            name: name.to_owned(),
            kubelet_dir: directory.join("kubelet"),
            cdi_dir,
            state_dir: directory.join("state"),
            records_dir: directory.join("records"),
            directory,
            id,
            folder,
            client: lab.client.clone(),
            kubelab: lab.kubelab,
            programs,
            kubelet_flags,
            kubelet,
            containerd,
        };
        node.import_images();
        node.wait_for_kubelet().await;
        node.wait_until_ready().await;
        kubelab::say(&format!("node {name} ({runtime:?}) is ready after {:.1} s", started.elapsed().as_secs_f64()));
        node
    }

    // ---- the kubelet ----

    /// Ends the kubelet as a crash would. Containers stay.
    pub(crate) fn kill_kubelet(&mut self) {
        self.kubelet.kill();
    }

    /// Ends the kubelet as systemd would. Containers stay.
    pub(crate) async fn stop_kubelet(&mut self) {
        self.kubelet.stop().await;
    }

    /// Starts the kubelet after its end; returns when its sockets are back. It may still have to look at its pods.
    pub(crate) async fn start_kubelet(&mut self) {
        creation::settle(&self.containerd, self.programs).await;
        self.kubelet.run(Path::new("nsenter"), &inside(&self.containerd, self.kubelab, &self.kubelet_flags));
        self.wait_for_kubelet().await;
    }

    /// Crash and start.
    pub(crate) async fn restart_kubelet(&mut self) {
        self.kill_kubelet();
        self.start_kubelet().await;
    }

    /// All it has logged.
    pub(crate) fn kubelet_log(&self) -> String {
        self.kubelet.log()
    }

    // ---- the machine ----

    /// Ends everything that runs on the node at once, as a loss of power would.
    pub(crate) fn power_off(&mut self) {
        self.kubelet.kill();
        let processes = self.processes();
        self.containerd.kill();
        let remaining = processes::remaining(processes);
        assert!(remaining.is_empty(), "processes of node {} do not end: {remaining:?}", self.name);
        cgroups::remove(&self.id);
    }

    /// Starts the node after [`Node::power_off`]; returns when the kubelet's sockets are back.
    pub(crate) async fn power_on(&mut self) {
        self.containerd.run(Path::new("unshare"), &containerd_arguments(&self.directory, &self.id, self.programs));
        wait_for_containerd(&mut self.containerd).await;
        self.start_kubelet().await;
    }

    /// Device nodes that stand in for GPUs with these UUIDs. Once only.
    pub(crate) fn stand_ins(&self, uuids: &[&str]) -> StandIns {
        StandIns::make(self.directory.join("dev"), uuids)
    }

    /// All that runs on it but the kubelet: containerd, its shims, containers; as the machine numbers them.
    pub(crate) fn processes(&self) -> Vec<String> {
        processes::descendants(self.containerd.id())
    }

    // ---- what its containers saw ----

    /// All starts of one container that its logs still tell of, oldest first.
    pub(crate) fn output(&self, namespace: &str, pod: &str, container: &str) -> Vec<Sight> {
        sight::logged(&self.directory.join("logs"), namespace, pod, container)
    }

    /// All starts of all containers of [`workload::pod`]s, oldest first; those of deleted pods as well.
    pub(crate) fn records(&self) -> Vec<Sight> {
        sight::records(&self.records_dir)
    }

    /// What the kubelet says it has given out, as monitoring asks it.
    pub(crate) async fn pod_resources(&self) -> Vec<PodResources> {
        let socket = format!("unix://{}", self.kubelet_dir.join("pod-resources/kubelet.sock").display());
        let mut kubelet = PodResourcesListerClient::connect(socket).await.expect("the kubelet listens");
        let answer = kubelet.list(ListPodResourcesRequest {}).await.expect("the kubelet lists");
        answer.into_inner().pod_resources
    }

    /// The slots that the kubelet has and holds for healthy, handed out or not, in order.
    pub(crate) async fn healthy_slots(&self, resource: &str) -> Vec<String> {
        let socket = format!("unix://{}", self.kubelet_dir.join("pod-resources/kubelet.sock").display());
        let Ok(mut kubelet) = PodResourcesListerClient::connect(socket).await else { return Vec::new() };
        let Ok(answer) = kubelet.get_allocatable_resources(AllocatableResourcesRequest {}).await else {
            return Vec::new();
        };
        let devices = answer.into_inner().devices.into_iter().filter(|devices| devices.resource_name == resource);
        let mut slots: Vec<String> = devices.flat_map(|devices| devices.device_ids).collect();
        slots.sort();
        slots
    }

    // ---- starting ----

    fn import_images(&self) {
        let archive = self.directory.join("images.tar");
        let packed = Command::new(self.programs.probe).arg("pack").arg(&archive).status().expect("the probe runs");
        assert!(packed.success(), "the probe cannot pack itself");
        self.import(&archive);
    }

    /// Makes a folder an image of the node, whose entrypoint is a program in it.
    pub(crate) fn make_image(&self, name: &str, entrypoint: &str, folder: &Path) {
        let archive = self.directory.join("image.tar");
        let packed = Command::new(self.programs.probe)
            .args(["pack-folder", name, entrypoint])
            .args([folder, &archive])
            .status()
            .expect("the probe runs");
        assert!(packed.success(), "the probe cannot pack {}", folder.display());
        self.import(&archive);
    }

    fn import(&self, archive: &Path) {
        let arguments = ["-n".into(), "k8s.io".into(), "images".into(), "import".into(), archive.display().to_string()];
        let imported = ctr(&self.containerd, self.programs, &arguments);
        imported.unwrap_or_else(|error| panic!("the images are not imported: {error}"));
    }

    /// Until the kubelet takes registrations and says what it has given out.
    async fn wait_for_kubelet(&mut self) {
        let started = Instant::now();
        for socket in ["device-plugins/kubelet.sock", "pod-resources/kubelet.sock"] {
            let path = self.kubelet_dir.join(socket);
            // The socket of a killed kubelet is still there and refuses.
            wait::until(&path.display().to_string(), 180, async || {
                self.kubelet.must_run();
                UnixStream::connect(&path).ok()
            })
            .await;
        }
        let seconds = started.elapsed().as_secs_f64();
        if seconds > 10.0 {
            let log = self.kubelet.log();
            let latest = log.rsplit("Starting recovery of all containers").next().unwrap_or_default();
            let unknown = latest.matches("Failed to create existing container").count();
            kubelab::say(&format!(
                "the kubelet took {seconds:.1} s to listen; cAdvisor asked in vain for {unknown} containers"
            ));
        }
    }

    async fn wait_until_ready(&mut self) {
        let nodes: Api<NodeObject> = Api::all(self.client.clone());
        wait::until(&format!("node {} to be ready", self.name), 60, async || {
            self.kubelet.must_run();
            let conditions = nodes.get(&self.name).await.ok()?.status?.conditions?;
            conditions.iter().any(|it| it.type_ == "Ready" && it.status == "True").then_some(())
        })
        .await;
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.kubelet.kill();
        if self.containerd.runs() {
            let processes = self.processes();
            self.containerd.kill();
            processes::remaining(processes);
        }
        cgroups::remove(&self.id);
        // Both are swept later where they cannot be removed now.
        let _ = fs::remove_file(&self.directory);
        if std::env::var_os("PACKHORSE_KEEP_LAB").is_none() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Removes what nodes of runs that have ended left.
fn sweep() {
    let linked = fs::read_dir(LINKS).map(|entries| entries.flatten().map(|entry| entry.file_name()).collect());
    let linked: Vec<std::ffi::OsString> = linked.unwrap_or_default();
    let linked = linked.into_iter().filter_map(|name| name.into_string().ok());
    for id in cgroups::nodes().into_iter().chain(linked) {
        let run = id.split('-').next().unwrap_or_default();
        if !Path::new("/proc").join(run).exists() {
            cgroups::remove(&id);
            // Another run may be sweeping as well.
            let _ = fs::remove_file(Path::new(LINKS).join(&id));
        }
    }
}

fn containerd_arguments(directory: &Path, id: &str, programs: runtime::Programs) -> Vec<String> {
    let script = directory.join("isolate.sh");
    identity::write(&script, ISOLATE);
    let [script, directory, folder] = [&script, directory, programs.folder].map(|path| path.display().to_string());
    ["--mount", "sh", &script, "first", &directory, id, &folder].map(str::to_owned).to_vec()
}

/// Arguments of nsenter that run a program where the kubelet's and containerd's folders are those of the node.
fn inside(containerd: &Component, program: &Path, arguments: &[String]) -> Vec<String> {
    let namespaces = format!("/proc/{}/ns", containerd.id());
    let own = [
        format!("--mount={namespaces}/mnt"),
        format!("--cgroup={namespaces}/cgroup"),
        "--".to_owned(),
        program.display().to_string(),
    ];
    own.into_iter().chain(arguments.iter().cloned()).collect()
}

fn ctr(containerd: &Component, programs: runtime::Programs, arguments: &[String]) -> Result<String, String> {
    let arguments = inside(containerd, &programs.folder.join("ctr"), arguments);
    let output = Command::new("nsenter").args(arguments).output().expect("nsenter runs");
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

async fn wait_for_containerd(containerd: &mut Component) {
    wait::until("containerd to answer", 60, async || {
        containerd.must_run();
        UnixStream::connect(format!("/proc/{}/root/run/containerd/containerd.sock", containerd.id())).ok()
    })
    .await;
}
