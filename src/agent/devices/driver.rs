//! Calls to the backend, none of which may stall the owner: a driver in trouble answers after minutes or never. Each runs on a
//! thread for blocking work and has a deadline; after it the call goes on alone, and nobody asks the same again until it has ended.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::spawn_blocking;
use tokio_util::task::AbortOnDropHandle;

use crate::agent::backend::{Backend, BackendError, Discovery, Event, Probe};

/// How long the thread of events waits at a time, which is also how long it outlives the agent.
const WAIT: Duration = Duration::from_millis(500);

/// The longest pause after failures of the call that waits for events.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Something the driver said.
#[derive(Debug)]
pub(super) enum Answer {
    Event(Event),
    /// Waiting for events failed.
    NoEvents(BackendError),
    Discovered(Result<Discovery, BackendError>),
    Probed(Arc<str>, Probe),
    /// No answer by the deadline.
    Late(Call),
    /// A late call has ended.
    Ended(Call),
}

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Call {
    Discover,
    Probe(Arc<str>),
}

/// Asks, and sends the answers to one receiver. Asks end with it.
#[derive(Debug)]
pub(super) struct Driver {
    backend: Arc<dyn Backend>,
    answers: mpsc::Sender<Answer>,
    /// One call at a time, so that one thread is enough as long as the driver answers.
    turn: Arc<Semaphore>,
    limit: Duration,
    stopped: Arc<AtomicBool>,
}

impl Driver {
    /// A call that takes longer than `limit` is late; for discovery it is six times that, a few calls for each card.
    pub(super) fn new(backend: Arc<dyn Backend>, limit: Duration) -> (Self, mpsc::Receiver<Answer>) {
        let (answers, receiver) = mpsc::channel(64);
        let turn = Arc::new(Semaphore::new(1));
        (Self { backend, answers, turn, limit, stopped: Arc::default() }, receiver)
    }

    /// Asks; the answer comes through the channel.
    pub(super) fn ask(&self, call: Call) -> AbortOnDropHandle<()> {
        let (backend, answers, turn) = (Arc::clone(&self.backend), self.answers.clone(), Arc::clone(&self.turn));
        let limit = self.limit(&call);
        AbortOnDropHandle::new(tokio::spawn(async move {
            // The semaphore is never closed.
            let permit = turn.acquire_owned().await;
            let asked = call.clone();
            let mut answer = spawn_blocking(move || match asked {
                Call::Discover => Answer::Discovered(backend.discover()),
                Call::Probe(card) => {
                    let probe = backend.probe(&card);
                    Answer::Probed(card, probe)
                }
            });
            let in_time = tokio::time::timeout(limit, &mut answer).await;
            drop(permit);
            let told = match in_time {
                Ok(Ok(answer)) => answers.send(answer).await,
                Ok(Err(_)) => answers.send(panicked(call)).await,
                Err(_) => {
                    if answers.send(Answer::Late(call.clone())).await.is_ok() {
                        // Its answer is too old to count.
                        drop(answer.await);
                        answers.send(Answer::Ended(call)).await
                    } else {
                        Ok(())
                    }
                }
            };
            // Nobody listens any more: the agent ends.
            drop(told);
        }))
    }

    /// How long a call may take.
    pub(super) fn limit(&self, call: &Call) -> Duration {
        match call {
            Call::Discover => self.limit.saturating_mul(6),
            Call::Probe(_) => self.limit,
        }
    }

    /// Waits for events on a thread of its own, until this is dropped.
    ///
    /// # Errors
    /// The system has no thread to spare.
    pub(super) fn listen(&self) -> std::io::Result<()> {
        let (backend, answers, stopped) = (Arc::clone(&self.backend), self.answers.clone(), Arc::clone(&self.stopped));
        let thread = move || {
            let mut failures = 0_u32;
            while !stopped.load(Ordering::Relaxed) {
                // Without this thread no event would ever be heard again. A backend keeps no state half changed.
                let waited = catch_unwind(AssertUnwindSafe(|| backend.next_event(WAIT)));
                let answer = match waited.unwrap_or_else(|_| Err(inside("waiting for events"))) {
                    Ok(None) => {
                        failures = 0;
                        continue;
                    }
                    Ok(Some(event)) => {
                        failures = 0;
                        Answer::Event(event)
                    }
                    Err(error) => {
                        failures = failures.saturating_add(1);
                        Answer::NoEvents(error)
                    }
                };
                if answers.blocking_send(answer).is_err() {
                    return;
                }
                pause(failures, &stopped);
            }
        };
        // Rust's default of 2 MiB is not touched as a whole: it costs address space only.
        std::thread::Builder::new().name("device-events".to_owned()).spawn(thread).map(drop)
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.stopped.store(true, Ordering::Relaxed);
    }
}

fn panicked(call: Call) -> Answer {
    match call {
        Call::Discover => Answer::Discovered(Err(inside("discovery"))),
        Call::Probe(card) => Answer::Probed(card, Probe::Ill(inside("the probe").to_string())),
    }
}

/// The panic itself is in the log.
fn inside(call: &str) -> BackendError {
    BackendError::Failed { call: call.to_owned(), device: None, reason: "panicked".to_owned() }
}

/// Nothing after the first failure: a topology file tells of its damage once, and the driver may be well the next moment.
fn pause(failures: u32, stopped: &AtomicBool) {
    let Some(doublings) = failures.checked_sub(2) else { return };
    let mut left = Duration::from_secs(1).saturating_mul(1 << doublings.min(5)).min(LONGEST_PAUSE);
    while !left.is_zero() && !stopped.load(Ordering::Relaxed) {
        let step = left.min(WAIT);
        std::thread::sleep(step);
        left -= step;
    }
}
