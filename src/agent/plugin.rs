//! The kubelet's device-plugin interface: one plugin per resource of the node, each on a socket of its own.
//!
//! Writes: sockets in the kubelet's `device-plugins`, and what it answers to the kubelet. Reads: the view (what is listed), the pods
//! (which slots are preferred), and through [`Starter`] the check at container start. `Allocate` answers from memory; only
//! `PreStartContainer` may wait. Whatever fails between us and the kubelet is tried again with growing waits, for good: a node
//! without registered plugins starts no GPU pods, and running containers do not notice.
//!
//! The list is not withdrawn because the agent is not ready or a device is in use: a kubelet that misses the slots of a pod which it
//! admits fails that pod.
//!
//! | module | owns |
//! |---|---|
//! | `register` | serving and registering one resource, again and again |
//! | `service` | the calls of the kubelet |
//! | `list` | which slots are shown |
//! | `allocate` | what `Allocate` answers, by strategy |
//! | `preferred` | which slots are preferred |
//! | `socket` | socket files |

mod allocate;
mod list;
mod metrics;
mod preferred;
mod register;
mod service;
mod socket;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

pub use allocate::ReplySettings;
pub use metrics::Metrics;
pub use preferred::Spread;

use super::identity::checkpoint;
use super::pods::Pods;
use super::specification::Specifications;
use super::start::Starter;
use super::view::{NodeView, ViewReceiver};
use crate::kubelet_api::device_plugin as api;
use list::Listing;
use preferred::Preference;
use register::Plugin;
use service::Shared;

/// Whether a file in the kubelet's directory of device plugins is called like a socket of ours.
pub fn is_own_socket(name: &str) -> bool {
    socket::is_ours(name)
}

/// What the plugins are told at their start.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The kubelet's directory, usually `/var/lib/kubelet`; it holds `device-plugins`.
    pub kubelet_dir: PathBuf,
    /// How `Allocate` answers.
    pub reply: ReplySettings,
    /// Which device's slots first where nothing is known of the pod.
    pub spread: Spread,
    /// Tell the kubelet each slot's NUMA node. Off by default: slots are interchangeable, so the Topology Manager would align a
    /// container with a card that it does not get.
    pub publish_numa: bool,
    /// Where the specifications of slots lie that are allocated again, and in which form.
    pub specifications: Arc<Specifications>,
    /// How patient the plugins are.
    pub timing: Timing,
}

/// How patient the plugins are; the defaults fit the kubelet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// How often the kubelet's socket and our own are looked at.
    pub poll: Duration,
    /// The wait after a first failure; it doubles from try to try.
    pub retry_first: Duration,
    /// The longest wait between tries.
    pub retry_longest: Duration,
    /// For one registration; the kubelet itself gives up after 10 s.
    pub register: Duration,
    /// From a registration to the first list that the kubelet reads.
    pub first_list: Duration,
    /// For one `PreStartContainer`; the kubelet itself gives up after 30 s.
    pub pre_start: Duration,
    /// For each step of an orderly end.
    pub shutdown: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            poll: Duration::from_millis(250),
            retry_first: Duration::from_millis(250),
            retry_longest: Duration::from_secs(10),
            register: Duration::from_secs(15),
            first_list: Duration::from_secs(10),
            pre_start: Duration::from_secs(25),
            shutdown: Duration::from_secs(5),
        }
    }
}

impl Settings {
    /// Defaults for a kubelet directory.
    pub fn new(kubelet_dir: PathBuf, specifications: Arc<Specifications>) -> Self {
        Self {
            kubelet_dir,
            reply: ReplySettings::default(),
            spread: Spread::default(),
            publish_numa: false,
            specifications,
            timing: Timing::default(),
        }
    }

    fn device_plugins(&self) -> PathBuf {
        self.kubelet_dir.join("device-plugins")
    }
}

/// Which resources are registered: the state behind [`Plugins::registered`].
#[derive(Debug)]
struct Registered {
    resources: Mutex<BTreeMap<Arc<str>, bool>>,
    all: watch::Sender<bool>,
    metrics: Metrics,
}

impl Registered {
    fn add(&self, resource: &Arc<str>) {
        self.metrics.registered.get_or_create(&metrics::Resource { resource: resource.to_string() }).set(0);
        self.change(|resources| {
            resources.insert(Arc::clone(resource), false);
        });
    }

    /// Of a resource that the node does not have any more nothing is noted.
    fn set(&self, resource: &str, registered: bool) {
        self.change(|resources| {
            if let Some(was) = resources.get_mut(resource)
                && std::mem::replace(was, registered) != registered
            {
                let gauge = metrics::Resource { resource: resource.to_owned() };
                self.metrics.registered.get_or_create(&gauge).set(i64::from(registered));
            }
        });
    }

    fn forget(&self, resource: &str) {
        self.metrics.registered.remove(&metrics::Resource { resource: resource.to_owned() });
        self.change(|resources| {
            resources.remove(resource);
        });
    }

    fn change(&self, change: impl FnOnce(&mut BTreeMap<Arc<str>, bool>)) {
        // Every change is one call on the map: it is whole even if its caller panicked.
        let mut resources = self.resources.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut resources);
        let all = resources.values().all(|registered| *registered);
        self.all.send_if_modified(|was| std::mem::replace(was, all) != all);
    }
}

/// All plugins of the node.
#[derive(Debug)]
pub struct Plugins {
    shared: Arc<Shared>,
    registered: Arc<Registered>,
}

/// The plugin of one resource, while it runs.
struct Running {
    listing: Listing,
    list: watch::Sender<Arc<Vec<api::Device>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Running {
    /// Ends it in order. The list outlives the task: a kubelet whose stream ends hangs up, on calls in flight too.
    async fn end(self) -> Result<(), tokio::task::JoinError> {
        let Self { list, stop, task, .. } = self;
        stop.cancel();
        let ended = task.await;
        drop(list);
        ended
    }
}

impl Plugins {
    /// Nothing is served before [`Self::run`].
    pub fn new(
        settings: Settings,
        view: ViewReceiver,
        pods: Arc<Pods>,
        starter: Arc<dyn Starter>,
        metrics: Metrics,
    ) -> Self {
        let checkpoint = settings.device_plugins().join(checkpoint::FILE);
        let registered =
            Registered { resources: Mutex::default(), all: watch::Sender::new(false), metrics: metrics.clone() };
        let shared = Shared {
            allocating: Mutex::new(settings.reply.control_nodes()),
            preference: Mutex::new(Preference::new(checkpoint)),
            again: watch::Sender::default(),
            settings,
            view,
            pods,
            starter,
            metrics,
        };
        Self { shared: Arc::new(shared), registered: Arc::new(registered) }
    }

    /// Whether the kubelet reads the list of every resource that the node has; false until the first look at the view.
    pub fn registered(&self) -> watch::Receiver<bool> {
        self.registered.all.subscribe()
    }

    /// Serves and registers a plugin for every resource, for as long as the node has it. When `stop` is cancelled the kubelet's calls
    /// in flight are answered, its streams end, and the socket files are removed last.
    pub async fn run(self: Arc<Self>, stop: CancellationToken) {
        let mut view = self.shared.view.clone();
        let mut running: BTreeMap<Arc<str>, Running> = BTreeMap::new();
        let mut leaving = tokio::task::JoinSet::new();
        loop {
            let newest = Arc::clone(&view.borrow_and_update());
            for ended in self.update(&mut running, &newest) {
                leaving.spawn(ended.end());
            }
            *self.shared.allocating.lock().unwrap_or_else(PoisonError::into_inner) =
                self.shared.settings.reply.control_nodes();
            let next = running.values().filter_map(|plugin| plugin.listing.next_change()).min();
            loop {
                tokio::select! {
                    () = stop.cancelled() => {
                        for (resource, plugin) in running {
                            self.registered.set(&resource, false);
                            leaving.spawn(plugin.end());
                        }
                        while let Some(ended) = leaving.join_next().await {
                            if let Ok(Err(error)) | Err(error) = ended {
                                tracing::error!(%error, "a device plugin broke off, which is a defect");
                            }
                        }
                        return;
                    }
                    Ok(()) = view.changed() => break,
                    () = sleep_until(next) => break,
                    Some(ended) = leaving.join_next() => {
                        if let Ok(Err(error)) | Err(error) = ended {
                            tracing::error!(%error, "a device plugin broke off, which is a defect");
                        }
                    }
                }
            }
        }
    }

    /// Brings lists and plugins in line with the view. Returns the plugins that have nothing to show any more.
    fn update(&self, running: &mut BTreeMap<Arc<str>, Running>, view: &NodeView) -> Vec<Running> {
        let resources = view.resources();
        let (now, numa) = (Instant::now(), self.shared.settings.publish_numa);
        for (resource, plugin) in running.iter_mut() {
            let devices = resources.get(&**resource).map_or(&[][..], Vec::as_slice);
            let list = plugin.listing.update(devices, numa, now);
            plugin.list.send_if_modified(|shown| {
                let changed = **shown != list;
                if changed {
                    *shown = Arc::new(list);
                }
                changed
            });
        }
        for (resource, devices) in &resources {
            if !running.contains_key(resource.as_str()) {
                let mut listing = Listing::default();
                let list = listing.update(devices, numa, now);
                let resource = Arc::from(resource.as_str());
                running.insert(Arc::clone(&resource), self.start(&resource, listing, list));
            }
        }
        let ended: Vec<_> =
            running.iter().filter(|(_, plugin)| plugin.listing.is_empty()).map(|(r, _)| Arc::clone(r)).collect();
        let ended = ended.into_iter().filter_map(|resource| {
            let plugin = running.remove(&resource)?;
            tracing::info!(resource = &*resource, "the node has no devices of this resource any more");
            self.registered.forget(&resource);
            Some(plugin)
        });
        let ended = ended.collect();
        // What an earlier run of these plugins left is not waited for, and a node without resources counts as registered too.
        self.registered.change(|resources| resources.retain(|resource, _| running.contains_key(resource)));
        ended
    }

    fn start(&self, resource: &Arc<str>, listing: Listing, list: Vec<api::Device>) -> Running {
        self.registered.add(resource);
        let (list, receiver) = watch::channel(Arc::new(list));
        let stop = CancellationToken::new();
        let plugin = Plugin {
            shared: Arc::clone(&self.shared),
            resource: Arc::clone(resource),
            list: receiver,
            registered: Arc::clone(&self.registered),
        };
        let task = tokio::spawn(plugin.run(stop.clone()));
        Running { listing, list, stop, task }
    }
}

async fn sleep_until(time: Option<Instant>) {
    match time {
        Some(time) => tokio::time::sleep_until(time).await,
        None => std::future::pending().await,
    }
}
