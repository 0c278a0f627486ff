//! What goes wrong on purpose: at random by seed, or exactly once because a test asked for it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::watch;

use super::store::Store;
use crate::random::Random;

/// How often things go wrong, as probabilities from 0 to 1. `Default`: never.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Rates {
    /// A watch is cut instead of delivering its next event; the event reaches whoever resumes.
    pub cut_watch: f64,
    /// The next event of a watch is late.
    pub delay_event: f64,
    /// By how much at most.
    pub event_delay: Duration,
    /// A watch that resumes is told 410 although the log reaches back.
    pub expire_resume: f64,
    /// An answer is late; what it answers is done.
    pub slow_answer: f64,
    /// By how much at most.
    pub answer_delay: Duration,
    /// A write is committed and its answer never arrives.
    pub lose_answer: f64,
}

/// Which requests a hook is for; empty fields are any.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Match {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub verb: String,
    /// `pods`, `pods/binding`, `nodes`, …
    pub resource: String,
}

impl Match {
    /// Every request.
    pub fn any() -> Self {
        Self::default()
    }

    /// Requests of one verb for one kind; an empty string is any.
    pub fn of(verb: &str, resource: &str) -> Self {
        Self { verb: verb.to_owned(), resource: resource.to_owned() }
    }

    fn is(&self, verb: &str, resource: &str) -> bool {
        (self.verb.is_empty() || self.verb == verb) && (self.resource.is_empty() || self.resource == resource)
    }
}

#[derive(Debug, Default)]
struct Hooks {
    fail: Vec<(Match, usize, u16)>,
    lose: Vec<(Match, usize)>,
    lose_often: Vec<(Match, f64)>,
    delay: Vec<(Match, Duration)>,
    delay_answer: Vec<(Match, Duration)>,
    expire_resumes: usize,
    rates: Rates,
    random: Option<Random>,
}

/// The handle by which tests and the demo make things go wrong. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Faults {
    hooks: Arc<Mutex<Hooks>>,
    store: Arc<Store>,
    /// Grows with every cut: a watch that began under a smaller number ends.
    cuts: watch::Sender<u64>,
    /// While true, watches deliver nothing.
    held: watch::Sender<bool>,
    injected: Arc<AtomicU64>,
}

impl Faults {
    pub(super) fn new(store: Arc<Store>, seed: u64, rates: Rates) -> Self {
        let hooks = Hooks { rates, random: Some(Random::new(seed)), ..Hooks::default() };
        Self {
            hooks: Arc::new(Mutex::new(hooks)),
            store,
            cuts: watch::Sender::new(0),
            held: watch::Sender::new(false),
            injected: Arc::default(),
        }
    }

    fn hooks(&self) -> MutexGuard<'_, Hooks> {
        // Every change below is one assignment or removal: a panic cannot leave half of one.
        self.hooks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends every watch that is open now, in the middle of its answer.
    pub fn cut_watches(&self) {
        self.count();
        self.cuts.send_modify(|cuts| *cuts += 1);
    }

    /// Forgets all changes so far: a watch that resumes from an older version gets 410, and so does the rest of a list.
    pub fn compact(&self) {
        self.store.write(|state| state.compact(state.version));
    }

    /// While held, watches deliver nothing (they stay open); released, they deliver all that was missed.
    pub fn hold_watches(&self, held: bool) {
        self.held.send_replace(held);
    }

    /// The next `n` watches that start from a version get 410.
    pub fn expire_resumes(&self, n: usize) {
        self.hooks().expire_resumes = n;
    }

    /// The next `n` matching requests are answered with this status and have no effect. `kube::Client` itself retries 429, 503 and
    /// 504, POSTs too: its caller sees only the answer to the last attempt.
    pub fn fail_next(&self, n: usize, code: u16, what: Match) {
        self.hooks().fail.push((what, n, code));
    }

    /// The next `n` matching requests take effect, but the connection closes without an answer.
    pub fn lose_next_answers(&self, n: usize, what: Match) {
        self.hooks().lose.push((what, n));
    }

    /// From now on matching writes lose their answers with this probability; zero ends it.
    pub fn lose_often(&self, probability: f64, what: Match) {
        let mut hooks = self.hooks();
        hooks.lose_often.retain(|(of, _)| *of != what);
        hooks.lose_often.push((what, probability));
    }

    /// The next binding takes effect, its answer is lost.
    pub fn lose_next_binding_answer(&self) {
        self.lose_next_answers(1, Match::of("create", "pods/binding"));
    }

    /// From now on matching requests take effect this much later; zero ends it.
    pub fn delay(&self, by: Duration, what: Match) {
        let mut hooks = self.hooks();
        hooks.delay.retain(|(of, _)| *of != what);
        if !by.is_zero() {
            hooks.delay.push((what, by));
        }
    }

    /// From now on matching requests take effect at once but are answered this much later; zero ends it.
    pub fn delay_answers(&self, by: Duration, what: Match) {
        let mut hooks = self.hooks();
        hooks.delay_answer.retain(|(of, _)| *of != what);
        if !by.is_zero() {
            hooks.delay_answer.push((what, by));
        }
    }

    /// From now on bindings take effect this much later; zero ends it.
    pub fn delay_bindings(&self, by: Duration) {
        self.delay(by, Match::of("create", "pods/binding"));
    }

    /// Replaces the random faults.
    pub fn set_rates(&self, rates: Rates) {
        self.hooks().rates = rates;
    }

    /// How many faults have been injected so far, of every kind.
    pub fn injected(&self) -> u64 {
        self.injected.load(Ordering::Relaxed)
    }

    fn count(&self) {
        self.injected.fetch_add(1, Ordering::Relaxed);
    }

    /// The status to answer instead of doing what was asked.
    pub(super) fn failure(&self, verb: &str, resource: &str) -> Option<u16> {
        let mut hooks = self.hooks();
        let position = hooks.fail.iter().position(|(what, n, _)| *n > 0 && what.is(verb, resource))?;
        hooks.fail[position].1 -= 1;
        let code = hooks.fail[position].2;
        hooks.fail.retain(|(_, n, _)| *n > 0);
        drop(hooks);
        self.count();
        Some(code)
    }

    /// How long to wait before doing what was asked.
    pub(super) fn delay_before(&self, verb: &str, resource: &str) -> Duration {
        self.hooks().delay.iter().filter(|(what, _)| what.is(verb, resource)).map(|(_, by)| *by).sum()
    }

    /// How long to wait before answering, and whether to answer at all.
    pub(super) fn answer(&self, verb: &str, resource: &str, is_write: bool) -> (Duration, bool) {
        let mut hooks = self.hooks();
        let mut wait: Duration =
            hooks.delay_answer.iter().filter(|(what, _)| what.is(verb, resource)).map(|(_, by)| *by).sum();
        let position = hooks.lose.iter().position(|(what, n)| *n > 0 && what.is(verb, resource));
        let mut lost = position.is_some();
        if let Some(position) = position {
            hooks.lose[position].1 -= 1;
            hooks.lose.retain(|(_, n)| *n > 0);
        }
        let rates = hooks.rates;
        let often = hooks.lose_often.iter().filter(|(what, _)| what.is(verb, resource)).map(|(_, rate)| *rate).sum();
        if let Some(random) = &mut hooks.random {
            if random.chance(rates.slow_answer) {
                wait += rates.answer_delay.mul_f64(random.unit());
                self.count();
            }
            lost |= is_write && random.chance(rates.lose_answer);
            lost |= is_write && random.chance(often);
        }
        if lost {
            self.count();
        }
        (wait, lost)
    }

    /// Whether a watch that starts from a version is told that it is too old.
    pub(super) fn expires_resume(&self) -> bool {
        let mut hooks = self.hooks();
        let rate = hooks.rates.expire_resume;
        let expires = if hooks.expire_resumes > 0 {
            hooks.expire_resumes -= 1;
            true
        } else {
            hooks.random.as_mut().is_some_and(|random| random.chance(rate))
        };
        if expires {
            self.count();
        }
        expires
    }

    /// What happens to a watch's next event: how late it is, or `None` where the watch is cut instead.
    pub(super) fn event(&self) -> Option<Duration> {
        let mut hooks = self.hooks();
        let rates = hooks.rates;
        let random = hooks.random.as_mut()?;
        if random.chance(rates.cut_watch) {
            self.count();
            return None;
        }
        if random.chance(rates.delay_event) {
            self.count();
            return Some(rates.event_delay.mul_f64(random.unit()));
        }
        Some(Duration::ZERO)
    }

    pub(super) fn cuts(&self) -> watch::Receiver<u64> {
        self.cuts.subscribe()
    }

    pub(super) fn held(&self) -> watch::Receiver<bool> {
        self.held.subscribe()
    }
}
