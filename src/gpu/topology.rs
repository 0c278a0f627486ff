//! How near the devices of one node are to each other, as numbers: built once per inventory, read by fit when it chooses a set. The
//! scale is the one of NVIDIA's go-gpuallocator.
//! Nothing here fails; what an inventory does not tell counts as far.

use std::hash::{Hash, Hasher};
use std::sync::OnceLock;

use super::device::{Device, Link, Pcie};

/// What one NVLink connection between two devices is worth.
const PER_NVLINK: u32 = 100;

/// Devices of which the best partition is sought. A board has eight.
pub(crate) const MOST_PARTED: usize = 8;

/// Nearness of each pair of a node's devices: 100 per NVLink connection, plus 10 (different sockets) to 60 (one board) for the
/// path over PCIe. Where no path is known, the same NUMA node counts as one socket, another one as another socket. MIG
/// instances are near to nothing.
#[derive(Debug, Default)]
pub struct Topology {
    len: usize,
    near: Box<[u16]>,
    mean: u32,
    board: OnceLock<Board>,
}

/// The best partitions of every set of a node's devices, by the set's bits.
#[derive(Debug)]
pub(crate) struct Board {
    pub(crate) pairs: Box<[u32]>,
    pub(crate) fours: Box<[u32]>,
}

impl PartialEq for Topology {
    fn eq(&self, other: &Self) -> bool {
        // The rest derives from it.
        self.near == other.near
    }
}

impl Eq for Topology {}

impl Hash for Topology {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.near.hash(state);
    }
}

impl Topology {
    /// Reads the links of `devices`. A link that only one end tells counts.
    pub fn of(devices: &[Device]) -> Self {
        let len = devices.len();
        let mut near = vec![0; len * len].into_boxed_slice();
        for a in 0..len {
            for b in a + 1..len {
                let pair = pair(&devices[a], &devices[b]);
                near[a * len + b] = pair;
                near[b * len + a] = pair;
            }
        }
        let mut topology = Self { len, near, ..Self::default() };
        let pairs = len * len.saturating_sub(1) / 2;
        let sum = topology.within(&(0..len).collect::<Vec<_>>());
        topology.mean = u32::try_from(pairs).ok().and_then(|pairs| sum.checked_div(pairs)).unwrap_or(0);
        topology
    }

    /// The mean over all pairs, 0 for fewer than two devices.
    pub fn mean(&self) -> u32 {
        self.mean
    }

    /// How near two devices, by position, are to each other.
    pub fn near(&self, a: usize, b: usize) -> u32 {
        self.near[a * self.len + b].into()
    }

    /// The sum over all pairs of `set`.
    pub fn within(&self, set: &[usize]) -> u32 {
        set.iter().enumerate().map(|(at, a)| set[..at].iter().map(|b| self.near(*a, *b)).sum::<u32>()).sum()
    }

    /// For each set of the members of `of`, named by its bits, the best sum over disjoint sets of `size` among them. At most
    /// [`MOST_PARTED`] members: this takes 3^members steps.
    pub(crate) fn partitions(&self, of: &[usize], size: usize) -> Box<[u32]> {
        debug_assert!(of.len() <= MOST_PARTED, "the steps grow threefold with each member");
        let all = 1_usize << of.len();
        let mut within = vec![0; all];
        let mut best = vec![0; all].into_boxed_slice();
        for set in 1..all {
            let first = set.trailing_zeros() as usize;
            let others = set & (set - 1);
            let beside = bits(others).map(|other| self.near(of[first], of[other])).sum::<u32>();
            within[set] = within[others] + beside;
            // Without the first one, or with it in one of the sets. No nearness is negative: more sets never sum to less.
            best[set] = best[others];
            let mut chosen = others;
            while chosen != 0 {
                if chosen.count_ones() as usize + 1 == size {
                    let one = chosen | 1 << first;
                    best[set] = best[set].max(within[one] + best[set ^ one]);
                }
                chosen = (chosen - 1) & others;
            }
        }
        best
    }

    /// [`Topology::partitions`] of all devices into pairs and into fours, kept once computed; `None` where there are too many.
    pub(crate) fn board(&self) -> Option<&Board> {
        if self.len > MOST_PARTED {
            return None;
        }
        let all = || (0..self.len).collect::<Vec<_>>();
        Some(self.board.get_or_init(|| Board { pairs: self.partitions(&all(), 2), fours: self.partitions(&all(), 4) }))
    }
}

/// The members of a set, lowest first.
pub(crate) fn bits(mut set: usize) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        (set != 0).then(|| {
            let lowest = set.trailing_zeros() as usize;
            set &= set - 1;
            lowest
        })
    })
}

fn pair(a: &Device, b: &Device) -> u16 {
    if a.mig.is_some() || b.mig.is_some() {
        // NVIDIA: no peer-to-peer to or from a MIG instance, not even on one card.
        return 0;
    }
    let link = |from: &Device, to: &Device| from.links.iter().find(|link| link.peer == to.uuid).map(value);
    // The two ends may know different things; the better knowledge counts.
    let (there, back) = (link(a, b).unwrap_or_default(), link(b, a).unwrap_or_default());
    let nvlink = there.0.max(back.0);
    let pcie = match there.1.max(back.1) {
        0 => by_place(a, b),
        known => known,
    };
    u16::try_from(nvlink + pcie).unwrap_or(u16::MAX)
}

/// NVLink and PCIe value of one link, 0 where there is none.
fn value(link: &Link) -> (u32, u32) {
    (PER_NVLINK * u32::from(link.nvlink), link.pcie.map_or(0, pcie_value))
}

fn pcie_value(pcie: Pcie) -> u32 {
    match pcie {
        Pcie::CrossCpu => 10,
        Pcie::SameCpu => 20,
        Pcie::HostBridge => 30,
        Pcie::MultiSwitch => 40,
        Pcie::SingleSwitch => 50,
        Pcie::SameBoard => 60,
    }
}

/// Without a known path the NUMA nodes tell whether a socket is shared.
fn by_place(a: &Device, b: &Device) -> u32 {
    match (a.numa, b.numa) {
        (Some(a), Some(b)) if a == b => pcie_value(Pcie::SameCpu),
        (Some(_), Some(_)) => pcie_value(Pcie::CrossCpu),
        _ => 0,
    }
}
