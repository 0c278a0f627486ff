//! A stand-in for the kubelet's device manager: the other side of the device-plugin interface, over the same sockets, for the demo
//! and for tests on machines without a kubelet.
//!
//! It does what Kubernetes 1.36 does (pkg/kubelet/cm/devicemanager), its unfriendly sides included: sockets are deleted at its start;
//! endpoints are forgotten, so that nothing is healthy until plugins register again; a pod whose slots cannot be had is failed
//! for good; slots are taken from sets in random order; a plugin of a resource is disconnected when an older stream of the same
//! resource ends; a slot that leaves the list while it is handed out ends the kubelet. What it leaves out is said where it does.
//!
//! Writes: `device-plugins/kubelet.sock`, `device-plugins/kubelet_internal_checkpoint`, `pod-resources/kubelet.sock` below its
//! directory. Pods are given to it by its owner, as the API server would.
//!
//! | module | owns |
//! |---|---|
//! | `accounts` | which slots there are and who has them |
//! | `checkpoint` | the same on disk |
//! | `plugins` | registered plugins and the calls to them |
//! | `pod_resources` | the same for other programs, over gRPC |

mod accounts;
mod checkpoint;
mod plugins;
mod pod_resources;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::Server;

use crate::gpu::request::Phase;
use crate::kubelet_api::device_plugin as api;
use crate::kubelet_api::device_plugin::registration_server::RegistrationServer;
use crate::kubelet_api::pod_resources::pod_resources_lister_server::PodResourcesListerServer;
use crate::random::Random;
use accounts::{Accounts, Wanted};
use plugins::Client;

/// A pod as the kubelet knows it, of which the device manager reads this.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pod {
    /// Its UID.
    pub uid: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Init containers first.
    pub containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Ordinary init, sidecar or app.
    pub phase: Phase,
    /// What `resources.limits` has of extended resources.
    pub limits: BTreeMap<String, u32>,
}

/// What the runtime is told of a container's devices: all answers of its plugins, merged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RunOptions {
    /// Environment; the pod's own comes after it and wins.
    pub envs: BTreeMap<String, String>,
    /// Annotations of the container.
    pub annotations: BTreeMap<String, String>,
    /// Qualified names, in the order of the answers.
    pub cdi_devices: Vec<String>,
    /// Device nodes.
    pub devices: Vec<api::DeviceSpec>,
    /// Mounts.
    pub mounts: Vec<api::Mount>,
}

/// Capacity and allocatable of one resource in the node's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Count {
    /// All slots of the list.
    pub capacity: usize,
    /// The healthy ones.
    pub allocatable: usize,
}

/// How long Allocate and the like took, and what was asked, for whoever looks on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Call {
    /// The method.
    pub method: &'static str,
    /// The resource.
    pub resource: String,
    /// The slots that were sent.
    pub slots: Vec<String>,
    /// From the call to the answer.
    pub took: Duration,
}

/// The kubelet stops waiting for `PreStartContainer`: `KubeletPreStartContainerRPCTimeoutInSecs`.
const PRE_START: Duration = Duration::from_secs(30);

/// One run of a kubelet; a restart is another value over the same directory.
#[derive(Debug)]
pub struct NodeKubelet {
    inner: Arc<Inner>,
    /// One pod is admitted at a time.
    admission: tokio::sync::Mutex<()>,
    servers: Vec<tokio::task::JoinHandle<()>>,
}

#[derive(Debug)]
struct Inner {
    directory: PathBuf,
    accounts: Mutex<Accounts>,
    calls: Mutex<Vec<Call>>,
    version: watch::Sender<u64>,
    /// Lists that are being received.
    receiving: AtomicUsize,
    /// One checkpoint is written at a time, though not in the order in which they were composed.
    writing: Mutex<()>,
    stop: CancellationToken,
}

impl NodeKubelet {
    /// Starts over `directory`, which takes the place of `/var/lib/kubelet`: reads the checkpoint, deletes every socket of
    /// `device-plugins`, serves. `seed` is for the order of everything that has none.
    ///
    /// # Errors
    /// A directory that cannot be written. A damaged checkpoint is not an error: the kubelet goes on without.
    pub fn start(directory: &Path, seed: u64) -> io::Result<Self> {
        let plugins = directory.join("device-plugins");
        std::fs::create_dir_all(&plugins)?;
        std::fs::create_dir_all(directory.join("pod-resources"))?;
        let mut accounts = Accounts::new(Random::new(seed));
        match checkpoint::read(&plugins) {
            Ok(read) => accounts.restore(read),
            Err(error) => tracing::warn!(%error, "continuing without the checkpoint"),
        }
        for entry in std::fs::read_dir(&plugins)? {
            let entry = entry?;
            if entry.file_type()?.is_socket() {
                std::fs::remove_file(entry.path())?;
            }
        }
        let inner = Arc::new(Inner {
            directory: directory.to_owned(),
            accounts: Mutex::new(accounts),
            calls: Mutex::default(),
            version: watch::Sender::new(0),
            receiving: AtomicUsize::new(0),
            writing: Mutex::default(),
            stop: CancellationToken::new(),
        });
        let registration = UnixListener::bind(plugins.join("kubelet.sock"))?;
        let router = Server::builder().add_service(RegistrationServer::new(plugins::Registrar(Arc::clone(&inner))));
        let registrations = tokio::spawn(serve(router, registration, inner.stop.clone()));
        let lister = directory.join("pod-resources/kubelet.sock");
        match std::fs::remove_file(&lister) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let router = Server::builder()
            .add_service(PodResourcesListerServer::new(pod_resources::Lister::new(Arc::clone(&inner))));
        let lister = tokio::spawn(serve(router, UnixListener::bind(lister)?, inner.stop.clone()));
        Ok(Self { inner, admission: tokio::sync::Mutex::default(), servers: vec![registrations, lister] })
    }

    /// Ends as a killed process does: connections break, files stay.
    pub async fn stop(self) {
        self.inner.stop.cancel();
        for client in self.inner.accounts().all_clients() {
            client.close();
        }
        for server in self.servers {
            server.abort();
            // It was told to end in either way.
            let _ = server.await;
        }
    }

    /// What the API server has for this node when the kubelet starts: all `pods` in the order of their creation, of whose containers
    /// `running` (UID, container) never stopped. Returns the pods that the kubelet fails, with the reason.
    ///
    /// While it looks at them no source counts as ready, so a running container is left alone; every other one needs its
    /// slots again, and right after the start there are none.
    pub async fn adopt(&self, pods: Vec<Pod>, running: BTreeSet<(String, String)>) -> Vec<(String, String)> {
        self.inner.accounts().begin(pods.clone(), running);
        let mut failed = Vec::new();
        for pod in pods {
            if let Err(reason) = self.allocate(&pod).await {
                self.inner.accounts().forget(&pod.uid);
                failed.push((pod.uid, reason));
            }
        }
        self.inner.accounts().ready();
        failed
    }

    /// A new pod: slots for all its containers.
    ///
    /// # Errors
    /// The pod has failed, for good (`UnexpectedAdmissionError`); the reason in the kubelet's words.
    pub async fn admit(&self, pod: Pod) -> Result<(), String> {
        self.inner.accounts().add(pod.clone());
        let result = self.allocate(&pod).await;
        if result.is_err() {
            self.inner.accounts().forget(&pod.uid);
        }
        result
    }

    async fn allocate(&self, pod: &Pod) -> Result<(), String> {
        let _admission = self.admission.lock().await;
        for container in &pod.containers {
            self.allocate_container(pod, container).await?;
            self.inner.accounts().note_reuse(pod, container);
        }
        Ok(())
    }

    async fn allocate_container(&self, pod: &Pod, container: &Container) -> Result<(), String> {
        let mut limits: Vec<_> = container.limits.iter().collect();
        self.inner.accounts().shuffle(&mut limits);
        let mut changed = false;
        for (resource, needed) in limits {
            let wanted = {
                let mut accounts = self.inner.accounts();
                if !accounts.is_plugin_resource(resource) {
                    continue;
                }
                accounts.free_ended();
                accounts.want(pod, container, resource, *needed as usize)?
            };
            let slots = match wanted {
                Wanted::Nothing => continue,
                Wanted::Slots(slots) => slots,
                Wanted::Ask(question) => {
                    let preferred = self.inner.prefer(&question).await?;
                    self.inner.accounts().decide(question, &preferred)?
                }
            };
            changed = true;
            let answer = self.inner.call_allocate(resource, &slots).await;
            let mut accounts = self.inner.accounts();
            match answer {
                Ok(answer) => accounts.record(pod, container, resource, &slots, answer)?,
                Err(error) => {
                    accounts.recount();
                    return Err(error);
                }
            }
        }
        if changed { self.inner.write_checkpoint() } else { Ok(()) }
    }

    /// A container is about to be created, for the first time or again: `PreStartContainer`, then what its plugins answered at admission.
    ///
    /// # Errors
    /// `CreateContainerConfigError` with this message; the kubelet tries again later.
    pub async fn start_container(&self, uid: &str, container: &str) -> Result<RunOptions, String> {
        let found = self.inner.accounts().container(uid, container);
        let (pod, container) = found.ok_or_else(|| format!("pod {uid} has no container {container} here"))?;
        let mut limits: Vec<_> = container.limits.iter().filter(|(_, amount)| **amount > 0).collect();
        self.inner.accounts().shuffle(&mut limits);
        let mut again = false;
        for (resource, _) in limits {
            let endpoint = {
                let mut accounts = self.inner.accounts();
                if !accounts.is_plugin_resource(resource) {
                    continue;
                }
                accounts.pre_start(uid, &container.name, resource)?
            };
            if let Some((client, slots)) = endpoint {
                self.inner.call_pre_start(&client, resource, &slots).await?;
            }
            again |= !self.inner.accounts().has(uid, &container.name, resource);
        }
        if again {
            let _admission = self.admission.lock().await;
            self.allocate_container(&pod, &container).await?;
            self.inner.accounts().note_reuse(&pod, &container);
        }
        let mut accounts = self.inner.accounts();
        accounts.set_running(uid, &container.name);
        Ok(accounts.run_options(uid, &container.name))
    }

    /// The pod is gone or has ended; its slots are free with the next look at them.
    pub fn remove(&self, uid: &str) {
        self.inner.accounts().forget(uid);
    }

    /// Capacity and allocatable by resource, as the node's status would have them.
    pub fn counts(&self) -> BTreeMap<String, Count> {
        self.inner.accounts().counts()
    }

    /// Which slots of a resource a container has, sorted.
    pub fn slots(&self, uid: &str, container: &str, resource: &str) -> Vec<String> {
        self.inner.accounts().slots(uid, container, resource)
    }

    /// Wakes whoever waits for registrations and lists.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.inner.version.subscribe()
    }

    /// Whether no list is being received. While one is, its checkpoint may overwrite a newer one: as in the original, what is written
    /// was composed before the lock for writing was had.
    pub fn is_idle(&self) -> bool {
        self.inner.receiving.load(Ordering::SeqCst) == 0
    }

    /// Every call to a plugin since the start.
    pub fn calls(&self) -> Vec<Call> {
        self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The same, and forgets them: who runs for long asks often.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut *self.inner.calls.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Why the real kubelet would have ended by now, `None` where it would not.
    pub fn crash(&self) -> Option<String> {
        self.inner.accounts().crash.clone()
    }
}

async fn serve(router: tonic::transport::server::Router, listener: UnixListener, stop: CancellationToken) {
    // Not to its end: a killed process answers nothing any more.
    tokio::select! {
        result = router.serve_with_incoming(UnixListenerStream::new(listener)) => {
            if let Err(error) = result {
                tracing::error!(%error, "the kubelet's server ended");
            }
        }
        () = stop.cancelled() => {}
    }
}

impl Inner {
    fn accounts(&self) -> MutexGuard<'_, Accounts> {
        // A panic of a test's own thread must not hide behind a poisoned lock.
        self.accounts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    fn write_checkpoint(&self) -> Result<(), String> {
        let snapshot = self.accounts().checkpoint();
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        checkpoint::write(&self.directory.join("device-plugins"), &snapshot)
            .map_err(|error| format!("failed to write checkpoint file: {error}"))
    }

    fn note(&self, method: &'static str, resource: &str, slots: &[String], start: std::time::Instant) {
        let call = Call { method, resource: resource.to_owned(), slots: slots.to_vec(), took: start.elapsed() };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// The list of a plugin. It is kept by resource, whoever sent it.
    fn receive(&self, resource: &str, devices: Vec<api::Device>) {
        self.receiving.fetch_add(1, Ordering::SeqCst);
        self.accounts().receive(resource, devices);
        if let Err(error) = self.write_checkpoint() {
            tracing::warn!(error, "writing the checkpoint");
        }
        self.receiving.fetch_sub(1, Ordering::SeqCst);
        self.changed();
    }

    fn client(&self, resource: &str) -> Result<Arc<Client>, String> {
        self.accounts().client(resource)
    }
}
