//! The workload as nodes with the same kinds of cards see it: amounts in thousandths of a card, kinds that no card
//! there serves left out. Made once for each class of nodes and target; read by [`super::fill`] and
//! [`super::stranded`].

use super::super::card::{CardKind, WHOLE};
use super::super::matching::matches_any;
use super::super::node::Node;
use super::super::request::Ask;
use super::super::workload::{Kind, Part};
use super::profile::{Change, Hole};
use super::stranded::Columns;
use super::{Learned, Mixed};
use std::hash::Hasher;

/// So many pods of a run come as if at once: the large ones first.
const CHUNK: usize = 8;

/// Scarcity counts up to this.
const SCARCEST: f64 = 1.5;

/// What a part of a pod takes of one kind of card, in thousandths of the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Need {
    pub(super) memory: u16,
    /// What it books; at least one has to be free even where it books none.
    pub(super) cores: u16,
    /// What it is worth, in thousandths of a card.
    pub(super) worth: u16,
}

/// What one container wants.
#[derive(Debug, Clone, Copy)]
pub(super) struct Want {
    pub(super) count: u16,
    pub(super) whole: bool,
    /// Where its needs begin, one for each kind of card.
    needs: usize,
}

/// One pod.
#[derive(Debug, Clone, Copy)]
pub(super) struct Token {
    /// Millicores.
    pub(super) cpu: i64,
    /// MiB.
    pub(super) memory: i64,
    first: u32,
    len: u16,
    /// In thousandths of a card.
    worth: u32,
}

/// One run.
#[derive(Debug, Default)]
pub(super) struct List {
    pub(super) tokens: Vec<Token>,
    /// Beside the tokens: the least CPU, and the least worth, of a pod with GPUs from there on.
    pub(super) least: Vec<(i64, u32)>,
}

/// Kinds that want the same of the devices and differ in CPU.
#[derive(Debug)]
pub(super) struct Group {
    /// Of a pod of several containers the largest.
    pub(super) want: Want,
    /// Millicores, sorted.
    pub(super) cpu: Vec<i64>,
    /// Beside it: the weight of the kinds up to there.
    weight: Vec<f64>,
}

/// A pod of one container at most, on nodes with one kind of cards. Small: all runs together should stay in a core's
/// own cache.
#[derive(Debug, Clone, Copy)]
pub(super) struct Plain {
    /// Millicores.
    pub(super) cpu: i32,
    /// MiB.
    pub(super) memory: i32,
    /// The least CPU of a pod with GPUs from here on.
    pub(super) least_cpu: i32,
    /// The least worth of one.
    pub(super) least_worth: u16,
    /// How many devices; 0 for a pod without GPUs.
    pub(super) count: u8,
    pub(super) whole: bool,
    /// Of each device.
    pub(super) need: Need,
}

/// The workload for nodes with the same kinds of cards.
#[derive(Debug)]
pub(super) struct Class {
    pub(super) id: u64,
    kinds: usize,
    needs: Vec<Option<Need>>,
    wants: Vec<Want>,
    pub(super) lists: Vec<List>,
    /// The same in short, where they can be.
    pub(super) plain: Option<Vec<Vec<Plain>>>,
    /// Kinds that these cards serve.
    pub(super) groups: Vec<Group>,
    /// The groups once more, to look at many at a time.
    pub(super) columns: Option<Columns>,
    /// Kinds that want several cards for a container, with what they weigh.
    pub(super) several: Vec<(f64, Token)>,
    /// By kind of card.
    worth: Vec<u16>,
    scarcity: Vec<f64>,
}

impl Class {
    pub(super) fn new(node: &Node, learned: &[Learned], lists: &[Vec<u16>], cluster: &[(CardKind, f64)]) -> Self {
        let cards = node.devices.cards();
        let kinds = cards.kinds();
        let instances = node.mig_single && node.devices.has_instances();
        let mut id = Mixed::default();
        id.write_u64(cards.class());
        id.write_u8(node.mig_single.into());
        let mut class = Self {
            id: id.finish(),
            kinds: kinds.len(),
            needs: Vec::new(),
            wants: Vec::new(),
            lists: Vec::new(),
            plain: None,
            groups: Vec::new(),
            columns: None,
            several: Vec::new(),
            worth: kinds.iter().map(|kind| kind.worth).collect(),
            scarcity: scarcity(kinds, learned, cluster),
        };
        let tokens: Vec<Option<Token>> = learned.iter().map(|kind| class.token(kind, kinds, instances)).collect();
        class.lists = lists.iter().map(|list| class.list(list, &tokens)).collect();
        class.plain = class.lists.iter().map(|list| class.shorten(list)).collect();
        class.weigh(learned, &tokens);
        class.columns = Columns::new(&class, kinds.len());
        class
    }

    pub(super) fn wants(&self, token: &Token) -> &[Want] {
        &self.wants[token.first as usize..][..usize::from(token.len)]
    }

    /// What it takes of the device with this hole, where it can have it.
    #[inline]
    pub(super) fn fits(&self, want: &Want, hole: Hole) -> Option<Need> {
        let need = self.needs[want.needs + usize::from(hole.kind)]?;
        let room = hole.memory >= need.memory && hole.cores >= need.cores.max(1) && (!want.whole || hole.is_whole());
        room.then_some(need)
    }

    /// What the hole is worth, in thousandths of a card.
    #[inline]
    pub(super) fn worth(&self, hole: Hole) -> u32 {
        let worth = self.worth[usize::from(hole.kind)];
        if worth == WHOLE { hole.size().into() } else { u32::from(hole.size()) * u32::from(worth) / u32::from(WHOLE) }
    }

    /// How much the workload is short of what `change` takes, in thousandths of a card.
    pub(super) fn scarcity(&self, node: &Node, change: &Change) -> f64 {
        let kind = usize::from(node.devices.cards().kind(change.at));
        let facts = &node.devices.facts()[change.at];
        let of = |part: f64, whole: f64| if whole > 0.0 { part / whole } else { 0.0 };
        let part = if change.exclusive {
            1.0
        } else {
            of(change.memory.into(), facts.memory.into()).max(of(change.cores.into(), facts.cores.into()))
        };
        self.scarcity[kind] * part * f64::from(self.worth[kind])
    }

    /// The pod as cards of these kinds see it; `None` where they cannot serve it.
    fn token(&mut self, learned: &Learned, kinds: &[CardKind], instances: bool) -> Option<Token> {
        let first = self.wants.len();
        let mut worth = 0;
        for part in &learned.kind.parts {
            let needs: Vec<Option<Need>> = kinds
                .iter()
                .map(|card| {
                    let asked = matches!(part.ask, Ask::Mig(_)) || card.profile.is_some() == instances;
                    if asked { need(&learned.kind, part, card) } else { None }
                })
                .collect();
            let Some(some) = needs.iter().flatten().next() else {
                self.wants.truncate(first);
                return None;
            };
            worth += part.count.saturating_mul(some.worth.into());
            self.wants.push(Want {
                count: u16::try_from(part.count).unwrap_or(u16::MAX),
                whole: !matches!(part.ask, Ask::Share { .. }),
                needs: self.needs.len(),
            });
            self.needs.extend(needs);
        }
        let len = u16::try_from(self.wants.len() - first).ok()?;
        let first = u32::try_from(first).ok()?;
        Some(Token { cpu: learned.kind.cpu, memory: learned.memory, first, len, worth })
    }

    fn list(&self, list: &[u16], tokens: &[Option<Token>]) -> List {
        let mut tokens: Vec<Token> = list.iter().filter_map(|at| tokens[usize::from(*at)]).collect();
        for chunk in tokens.chunks_mut(CHUNK) {
            chunk.sort_by_key(|token| std::cmp::Reverse(token.worth));
        }
        let mut least = vec![(i64::MAX, u32::MAX); tokens.len()];
        let mut from_here = (i64::MAX, u32::MAX);
        for (at, token) in tokens.iter().enumerate().rev() {
            if !token.is_without() {
                from_here = (from_here.0.min(token.cpu), from_here.1.min(self.smallest(token)));
            }
            least[at] = from_here;
        }
        List { tokens, least }
    }

    fn shorten(&self, list: &List) -> Option<Vec<Plain>> {
        let one = |(token, least): (&Token, &(i64, u32))| {
            let Token { cpu, memory, .. } = *token;
            let none = Need { memory: 0, cores: 0, worth: 0 };
            let (count, whole, need) = match self.wants(token) {
                [] => (0, false, none),
                [want] => (want.count, want.whole, (*self.needs(want).first()?)?),
                _ => return None,
            };
            // Shares of several devices are rare enough.
            let plain = self.kinds == 1 && (whole || count <= 1);
            // What no node has is as good as the most that can be written.
            let short = |n: i64| i32::try_from(n).unwrap_or(i32::MAX);
            plain.then_some(Plain {
                cpu: short(cpu),
                memory: short(memory),
                least_cpu: short(least.0),
                least_worth: u16::try_from(least.1).unwrap_or(u16::MAX),
                count: u8::try_from(count).unwrap_or(u8::MAX),
                whole,
                need,
            })
        };
        list.tokens.iter().zip(&list.least).map(one).collect()
    }

    /// The least that one of its containers takes of one card.
    fn smallest(&self, token: &Token) -> u32 {
        let needs = self.wants(token).iter().flat_map(|want| self.needs(want));
        needs.flatten().map(|need| need.worth.into()).min().unwrap_or(0)
    }

    fn weigh(&mut self, learned: &[Learned], tokens: &[Option<Token>]) {
        // Pods without GPUs take CPU, but waste no GPU of their own.
        let weight = |learned: &Learned| if learned.kind.parts.is_empty() { 0.5 } else { 1.0 } * learned.share;
        let all: f64 = learned.iter().map(weight).sum();
        let mut groups: Vec<(Want, Vec<(i64, f64)>)> = Vec::new();
        for (learned, token) in learned.iter().zip(tokens) {
            let Some(token) = token else { continue };
            let weight = weight(learned) / all;
            if learned.kind.largest() > 1 {
                self.several.push((weight * f64::from(token.worth), *token));
            }
            let Some(want) = self.wants(token).iter().max_by_key(|want| self.total(want)).copied() else { continue };
            match groups.iter_mut().find(|(other, _)| self.is_same(other, &want)) {
                Some((_, kinds)) => kinds.push((token.cpu, weight)),
                None => groups.push((want, vec![(token.cpu, weight)])),
            }
        }
        self.groups = groups.into_iter().map(|(want, kinds)| Group::new(want, kinds)).collect();
    }

    /// What it takes of all its devices.
    fn total(&self, want: &Want) -> u32 {
        let each = self.needs(want).iter().flatten().map(|need| need.worth).max().unwrap_or(0);
        u32::from(want.count) * u32::from(each)
    }

    fn is_same(&self, a: &Want, b: &Want) -> bool {
        (a.count, a.whole) == (b.count, b.whole) && self.needs(a) == self.needs(b)
    }

    /// By kind of card.
    pub(super) fn needs(&self, want: &Want) -> &[Option<Need>] {
        &self.needs[want.needs..][..self.kinds]
    }
}

impl Group {
    fn new(want: Want, mut kinds: Vec<(i64, f64)>) -> Self {
        kinds.sort_unstable_by_key(|(cpu, _)| *cpu);
        let mut sum = 0.0;
        let (cpu, weight) = kinds
            .into_iter()
            .map(|(cpu, weight)| {
                sum += weight;
                (cpu, sum)
            })
            .unzip();
        Self { want, cpu, weight }
    }

    /// The weight of the kinds that want no more CPU than this.
    pub(super) fn weight(&self, cpu: i64) -> f64 {
        let within = self.cpu.partition_point(|wanted| *wanted <= cpu);
        if within == 0 { 0.0 } else { self.weight[within - 1] }
    }
}

impl Token {
    /// It asks for no GPU.
    pub(super) fn is_without(&self) -> bool {
        self.len == 0
    }
}

/// What a part of a pod takes of a card of this kind; `None` where it cannot have one even of an empty node.
fn need(kind: &Kind, part: &Part, card: &CardKind) -> Option<Need> {
    let accepted = (kind.model.is_empty() || matches_any(&kind.model, &card.model))
        && !matches_any(&kind.model_exclude, &card.model);
    if !accepted {
        return None;
    }
    let whole = Need { memory: WHOLE, cores: WHOLE, worth: card.worth };
    match &part.ask {
        Ask::Exclusive => Some(whole),
        Ask::Mig(profile) => (card.profile.as_ref() == Some(profile)).then_some(whole),
        Ask::Share { memory, cores } => {
            let part = |amount: u64, all: u64| {
                let part = (amount * u64::from(WHOLE)).checked_div(all)?.max(1);
                let exact = part * all >= amount * u64::from(WHOLE);
                u16::try_from(if exact { part } else { part + 1 }).ok().filter(|part| *part <= WHOLE)
            };
            let memory = part(memory.of(card.memory).into(), card.memory.into())?;
            let cores = if *cores == 0 { 0 } else { part((*cores).into(), card.cores.into())? };
            let worth = u32::from(memory.max(cores)) * u32::from(card.worth) / u32::from(WHOLE);
            Some(Need { memory, cores, worth: u16::try_from(worth).ok()? })
        }
    }
}

/// By kind of card: how much the pods that accept only some cards want of those, against what there is.
fn scarcity(kinds: &[CardKind], learned: &[Learned], cluster: &[(CardKind, f64)]) -> Vec<f64> {
    // A count means instances only where nobody has whole cards.
    let whole_cards = cluster.iter().any(|(card, _)| card.profile.is_none());
    let takes =
        |part: &Part, card: &CardKind| matches!(part.ask, Ask::Mig(_)) || card.profile.is_none() || !whole_cards;
    // What a pod wants of a card of this kind, in thousandths of a whole one; `None` where it does not accept it.
    let demand = |kind: &Kind, card: &CardKind| -> Option<f64> {
        let one = |part: &Part| {
            let need = need(kind, part, card).filter(|_| takes(part, card))?;
            Some(f64::from(part.count) * f64::from(need.worth))
        };
        kind.parts.iter().map(one).sum()
    };
    let worth = |(card, count): &(CardKind, f64)| f64::from(card.worth) * count;
    let all_cards: f64 = cluster.iter().map(worth).sum();
    let wishes: Vec<_> = learned
        .iter()
        .filter(|learned| !learned.kind.parts.is_empty())
        .map(|learned| {
            let demands: Vec<_> = cluster.iter().map(|(card, _)| demand(&learned.kind, card)).collect();
            let accepted: Vec<bool> = demands.iter().map(Option::is_some).collect();
            let most = demands.into_iter().flatten().fold(0.0, f64::max);
            (accepted, learned.share * most)
        })
        .collect();
    let all_demand: f64 = wishes.iter().map(|(_, demand)| demand).sum();
    let of_kind = |kind: &CardKind| {
        let Ok(at) = cluster.binary_search_by(|(card, _)| card.cmp(kind)) else { return 0.0 };
        let choosy = || wishes.iter().filter(|(accepted, _)| accepted[at] && accepted.contains(&false));
        let demand: f64 = choosy().map(|(_, demand)| demand).sum();
        let served = |at: usize| choosy().any(|(accepted, _)| accepted[at]);
        let cards: f64 = cluster.iter().enumerate().filter(|(at, _)| served(*at)).map(|(_, card)| worth(card)).sum();
        if all_demand > 0.0 && cards > 0.0 { (demand / all_demand / (cards / all_cards)).min(SCARCEST) } else { 0.0 }
    };
    kinds.iter().map(of_kind).collect()
}
