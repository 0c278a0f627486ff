//! What happened, in one line each, for people who look on.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

/// What a line is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Topic {
    /// A pod was refused at admission.
    Refused,
    /// A pod was placed.
    Placed,
    /// All containers of a GPU pod run.
    Started,
    /// A pod fits nowhere at the moment, or a container does not start.
    Waiting,
    /// A GPU changed.
    Fleet,
    /// Something is wrong.
    Wrong,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// Since the start.
    pub(super) at: Duration,
    /// What it is about.
    pub(super) topic: Topic,
    /// Without the time.
    pub(super) text: String,
}

/// Where lines are told. Cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct News {
    began: Instant,
    sender: mpsc::UnboundedSender<Item>,
}

impl News {
    pub(super) fn new(began: Instant) -> (Self, mpsc::UnboundedReceiver<Item>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (Self { began, sender }, receiver)
    }

    pub(super) fn tell(&self, topic: Topic, text: String) {
        // Nobody listens any more once the demo ends.
        let _ended = self.sender.send(Item { at: self.began.elapsed(), topic, text });
    }
}
