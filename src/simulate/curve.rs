//! Unallocated GPU over arrivals, as the published figures have it: samples are taken after every pod, and those whose arrived GPU rounds
//! to the same percent of all GPUs are averaged.

use super::world::World;

/// Samples by rounded percent.
#[derive(Debug, Clone, Default)]
pub(crate) struct Curve {
    /// Sum and number of samples, by percent.
    samples: Vec<(f64, u32)>,
    last: f64,
}

impl Curve {
    /// Takes a sample. `arrived` in milli, failed pods included.
    pub(crate) fn add(&mut self, arrived: u64, world: &World) {
        let unallocated = world.unallocated();
        let percent = (100.0 * arrived as f64 / world.capacity as f64).round() as usize;
        if self.samples.len() <= percent {
            self.samples.resize(percent + 1, (0.0, 0));
        }
        let (sum, count) = &mut self.samples[percent];
        *sum += unallocated;
        *count += 1;
        self.last = unallocated;
    }

    /// Unallocated GPU when about so many percent of all GPUs had arrived. In traces with few pods the nearest percent that has a
    /// sample; all of it where there is none.
    pub(crate) fn at(&self, percent: usize) -> f64 {
        let nearest = self.points().min_by_key(|(at, _)| at.abs_diff(percent));
        nearest.map_or(100.0, |(_, unallocated)| unallocated)
    }

    /// After the last pod.
    pub(crate) fn last(&self) -> f64 {
        self.last
    }

    /// Percent arrived and percent unallocated.
    pub(crate) fn points(&self) -> impl Iterator<Item = (usize, f64)> {
        let each = self.samples.iter().enumerate().filter(|(_, (_, count))| *count > 0);
        each.map(|(percent, (sum, count))| (percent, sum / f64::from(*count)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::simulate::trace::{Builder, Cluster, Machine};

    #[test]
    fn samples_of_the_same_rounded_percent_are_averaged() {
        let machine = Machine { name: "a".into(), cpu: 0, memory: 0, gpus: 1, model: "T4".into(), node: None };
        let mut world = World::new(&Cluster { machines: vec![machine] }, &Builder::default().finish());
        let mut curve = Curve::default();
        for (arrived, used) in [(0, 0), (494, 480), (495, 500), (504, 520), (506, 540), (980, 900)] {
            world.used = used;
            curve.add(arrived, &world);
        }
        let points: Vec<_> = curve.points().map(|(at, unallocated)| (at, unallocated.round() as i64)).collect();
        assert_eq!(points, [(0, 100), (49, 52), (50, 49), (51, 46), (98, 10)]);
        assert_eq!(curve.at(50).round() as i64, 49);
        assert_eq!(curve.at(100).round() as i64, 10);
        assert_eq!(curve.last().round() as i64, 10);
    }
}
