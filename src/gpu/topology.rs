//! How near the devices of one node are to each other, as numbers: built once per inventory, read by fit when it chooses a set.
//! Nothing here fails; what an inventory does not tell counts as far.

use super::device::{Device, Link, Pcie};

/// What one NVLink connection between two devices is worth.
const PER_NVLINK: u32 = 100;

/// Nearness of each pair of a node's devices: 100 per NVLink connection, plus 10 (different sockets) to 60 (one board) for the
/// path over PCIe. Where no path is known, the same NUMA node counts as one socket, another one as another socket.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Topology {
    len: usize,
    near: Box<[u16]>,
    mean: u32,
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
        let mut topology = Self { len, near, mean: 0 };
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

    /// What would be left of good sets once devices are taken: the best sum over disjoint sets of `size` among `free`. For more
    /// than eight free devices, where the best partition costs too much, the sum over all pairs.
    pub fn outlook(&self, free: &[usize], size: usize) -> u32 {
        if size < 2 || free.len() > 8 {
            return self.within(free);
        }
        self.best_partition(free, (1 << free.len()) - 1, size, &mut [None; 256])
    }

    /// The best sum over disjoint sets of `size` among the members of `free` named by the bits of `left`. `known` holds what was
    /// computed before, by `left`.
    fn best_partition(&self, free: &[usize], left: usize, size: usize, known: &mut [Option<u32>; 256]) -> u32 {
        let members = left.count_ones() as usize;
        if members < size {
            return 0;
        }
        if let Some(best) = known[left] {
            return best;
        }
        let first = left & left.wrapping_neg();
        let others = left ^ first;
        let mut best = 0;
        if !members.is_multiple_of(size) {
            best = self.best_partition(free, others, size, known);
        }
        let mut chosen = others;
        // All subsets of the others, the full one first.
        while chosen != 0 {
            if chosen.count_ones() as usize + 1 == size {
                let set = chosen | first;
                best = best.max(self.within_bits(free, set) + self.best_partition(free, left ^ set, size, known));
            }
            chosen = (chosen - 1) & others;
        }
        known[left] = Some(best);
        best
    }

    fn within_bits(&self, free: &[usize], set: usize) -> u32 {
        let members = |bits: usize| (0..free.len()).filter(move |at| bits >> at & 1 == 1);
        members(set)
            .map(|a| members(set).take_while(|b| *b < a).map(|b| self.near(free[a], free[b])).sum::<u32>())
            .sum()
    }
}

fn pair(a: &Device, b: &Device) -> u16 {
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

/// Without a known path: instances of one card are on one board; else the NUMA nodes tell whether a socket is shared.
fn by_place(a: &Device, b: &Device) -> u32 {
    if a.parent.is_some() && a.parent == b.parent {
        return pcie_value(Pcie::SameBoard);
    }
    match (a.numa, b.numa) {
        (Some(a), Some(b)) if a == b => pcie_value(Pcie::SameCpu),
        (Some(_), Some(_)) => pcie_value(Pcie::CrossCpu),
        _ => 0,
    }
}
