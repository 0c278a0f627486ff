//! What a choice of devices leaves to others, which decides between choices that are equally good for the pod itself. Read by
//! `set`. A few sums per choice on a board of eight cards; where more are free, partitions cost too much and all pairs count.

use std::borrow::Cow;

use super::super::node::Node;
use super::super::request::Ask;
use super::super::topology::MOST_PARTED;
use super::one::free;
use super::want::Want;

/// What decides between equal choices, first things first; greater is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Outlook {
    /// The best partition of the devices left into sets of the size chosen.
    own: u32,
    /// The best one into fours. Larger sets are harder to keep.
    fours: u32,
    /// The best one into pairs.
    pairs: u32,
    /// Pairs of the chosen devices on one NUMA node: links that count alike may still cross.
    beside: u32,
    /// Pairs of the devices left on one NUMA node: where a choice opens a second NUMA node, a pod bound to one finds fewer there.
    numa: u32,
}

impl Outlook {
    /// Not looked at.
    pub(super) const NONE: Self = Self { own: 0, fours: 0, pairs: 0, beside: 0, numa: 0 };
}

/// Tells the outlook of choices of one size on one node.
#[derive(Debug)]
pub(super) struct Outlooks<'a> {
    node: &'a Node,
    /// The free devices of the kind.
    all: Vec<usize>,
    left: Left<'a>,
}

#[derive(Debug)]
enum Left<'a> {
    /// Tables by the bits of sets of `members`.
    Few { members: Vec<usize>, own: Option<Cow<'a, [u32]>>, fours: Cow<'a, [u32]>, pairs: Cow<'a, [u32]> },
    /// The sum over all pairs of free devices, and per free device the sum over those with it.
    Many { sum: u32, each: Vec<u32> },
}

impl<'a> Outlooks<'a> {
    /// `is_free` tells the devices that nobody holds.
    pub(super) fn new(want: &Want<'a>, size: usize, is_free: &dyn Fn(usize) -> bool) -> Self {
        let node = want.node;
        let topology = node.devices.topology();
        // A profile's instances are of use to nobody who asks for another one.
        let is_alike = |at: &usize| match &want.container.ask {
            Ask::Mig(_) => want.is_kind(*at, &node.devices.facts()[*at]),
            Ask::Exclusive | Ask::Share { .. } => true,
        };
        let like = node.devices.facts().iter().enumerate().position(|(at, facts)| want.is_kind(at, facts));
        let all: Vec<usize> = like.map(|like| free(node, like, is_free).filter(is_alike).collect()).unwrap_or_default();
        let own = |members: &[usize], fours: &Cow<'a, [u32]>, pairs: &Cow<'a, [u32]>| match size {
            0 | 1 => None,
            2 => Some(pairs.clone()),
            4 => Some(fours.clone()),
            _ => Some(Cow::Owned(topology.partitions(members, size).into_vec())),
        };
        let left = if let Some(board) = topology.board() {
            let members: Vec<usize> = (0..node.devices.len()).collect();
            let (fours, pairs) = (Cow::Borrowed(&*board.fours), Cow::Borrowed(&*board.pairs));
            Left::Few { own: own(&members, &fours, &pairs), members, fours, pairs }
        } else if all.len() <= MOST_PARTED {
            let table = |size| Cow::Owned(topology.partitions(&all, size).into_vec());
            let (fours, pairs) = (table(4), table(2));
            Left::Few { own: own(&all, &fours, &pairs), members: all.clone(), fours, pairs }
        } else {
            let each: Vec<u32> =
                all.iter().map(|a| all.iter().filter(|b| *b != a).map(|b| topology.near(*a, *b)).sum()).collect();
            Left::Many { sum: each.iter().sum::<u32>() / 2, each }
        };
        Self { node, all, left }
    }

    /// The outlook where `chosen` are taken.
    pub(super) fn of(&self, chosen: &[usize]) -> Outlook {
        let rest: Vec<usize> = self.all.iter().copied().filter(|at| !chosen.contains(at)).collect();
        let (own, fours, pairs) = match &self.left {
            Left::Few { members, own, fours, pairs } => {
                let bit = |at: &usize| members.iter().position(|member| member == at).map_or(0, |bit| 1 << bit);
                let set = rest.iter().fold(0, |set, at| set | bit(at));
                (own.as_ref().map_or(0, |own| own[set]), fours[set], pairs[set])
            }
            Left::Many { sum, each } => {
                let lost = self.all.iter().zip(each).filter(|(at, _)| chosen.contains(at)).map(|(_, each)| each);
                let taken: Vec<usize> = self.all.iter().copied().filter(|at| chosen.contains(at)).collect();
                // Pairs among the chosen ones are lost once, not twice.
                let own = (sum + self.node.devices.topology().within(&taken)).saturating_sub(lost.sum());
                (own, 0, 0)
            }
        };
        Outlook { own, fours, pairs, beside: self.on_one_numa_node(chosen), numa: self.on_one_numa_node(&rest) }
    }

    fn on_one_numa_node(&self, devices: &[usize]) -> u32 {
        let numa = |at: &usize| self.node.devices[*at].numa;
        let beside = |(nth, at): (usize, &usize)| {
            numa(at).map_or(0, |here| devices[..nth].iter().filter(|other| numa(other) == Some(here)).count())
        };
        u32::try_from(devices.iter().enumerate().map(beside).sum::<usize>()).unwrap_or(u32::MAX)
    }
}
