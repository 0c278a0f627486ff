//! What happens in the cluster while kube-scheduler asks: pods come and go at a pace, new ones are shown by the watch, and what was
//! bound is shown bound a little later. One thread, in the server's process, as the real watch is.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel as queue};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use axum::body::Bytes;

use crate::cluster::{Cluster, OnBind};

/// From a Binding to its pod in the watch.
const WATCH: Duration = Duration::from_millis(2);

/// What the thread is told.
enum News {
    New(String),
    Bound(Instant, Bytes),
}

/// Tells the thread.
#[derive(Clone)]
pub struct Tell(Sender<News>);

impl Tell {
    /// The watch shows a new pod.
    pub fn announce(&self, uid: String) {
        self.tell(News::New(uid));
    }

    fn tell(&self, news: News) {
        // Nobody listens any more when the server ends.
        self.0.send(news).ok();
    }
}

/// What the thread listens to.
pub struct Listen(Receiver<News>);

pub fn channel() -> (Tell, Listen) {
    let (tell, listen) = queue();
    (Tell(tell), Listen(listen))
}

/// For the API server: every Binding is told.
pub fn on_bind(tell: Tell) -> OnBind {
    Arc::new(move |binding| tell.tell(News::Bound(Instant::now(), binding)))
}

/// The thread.
pub struct World(JoinHandle<()>);

impl World {
    pub fn start(cluster: Arc<Cluster>, events: u32, listen: Listen) -> Self {
        let live = move || live(&cluster, events, &listen.0);
        Self(std::thread::Builder::new().name("world".to_owned()).spawn(live).expect("a thread"))
    }

    /// Once nobody tells it anything any more it ends; the API server tells as long as the extender lives.
    pub fn stop(self) {
        assert!(!self.0.is_finished(), "what happens in the cluster has stopped happening");
    }
}

fn live(cluster: &Cluster, events: u32, news: &Receiver<News>) {
    let pause = (events > 0).then(|| Duration::from_secs(1) / events);
    let mut event = pause.map(|pause| Instant::now() + pause);
    let mut bound: VecDeque<(Instant, Bytes)> = VecDeque::new();
    let mut n = 0;
    loop {
        let next = event.into_iter().chain(bound.front().map(|(at, _)| *at)).min();
        let wait = next.map_or(Duration::from_secs(1), |next| next.saturating_duration_since(Instant::now()));
        match news.recv_timeout(wait) {
            Ok(News::New(uid)) => cluster.announce(&uid),
            Ok(News::Bound(at, binding)) => bound.push_back((at + WATCH, binding)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        let now = Instant::now();
        while let Some((_, binding)) = bound.pop_front_if(|(at, _)| *at <= now) {
            cluster.show_bound(&binding);
        }
        if let (Some(at), Some(pause)) = (event.filter(|at| *at <= now), pause) {
            n += 1;
            cluster.event(n);
            // Never more of them at once to make up for a delay.
            event = Some((at + pause).max(now));
        }
    }
}
