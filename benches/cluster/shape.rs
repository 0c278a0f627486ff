//! What the pods of the made-up cluster ask for: distinct shapes, always the same ones, and the random numbers they are drawn with.

#![allow(missing_docs, dead_code, unreachable_pub, reason = "each benchmark uses some of it")]

use std::collections::HashSet;
use std::sync::LazyLock;

/// MiB of each card.
pub const CARD: u32 = 81_920;

/// One kind of pod: one container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// GPUs.
    pub count: u32,
    /// MiB of each; `None` for whole cards that nobody else gets.
    pub memory: Option<u32>,
    /// Percent of each; 0: not limited.
    pub cores: u32,
    /// Host cores.
    pub cpu: u32,
    /// Host memory, GiB.
    pub host: u32,
}

impl Shape {
    /// Seven of ten want a part of a card, of 1 to 72 GiB; the rest 1, 2, 4 or 8 whole cards.
    fn draw(rng: &mut Rng) -> Self {
        let whole = |count: u32, rng: &mut Rng| Self {
            count,
            memory: None,
            cores: 0,
            cpu: count * (4 + rng.below(9) as u32),
            host: count * 8 * (1 + rng.below(12) as u32),
        };
        match rng.below(100) {
            0..70 => Self {
                count: 1,
                memory: Some(1024 * (1 + rng.below(72) as u32)),
                cores: 5 * rng.below(13) as u32,
                cpu: 1 + rng.below(12) as u32,
                host: 4 * (1 + rng.below(16) as u32),
            },
            70..88 => whole(1, rng),
            88..95 => whole(2, rng),
            95..98 => whole(4, rng),
            _ => whole(8, rng),
        }
    }

    /// How many cards' worth it takes.
    pub fn gpus(&self) -> f64 {
        let part =
            self.memory.map_or(1.0, |memory| (f64::from(memory) / f64::from(CARD)).max(f64::from(self.cores) / 100.0));
        f64::from(self.count) * part
    }
}

/// So many are told apart.
const MOST: usize = 4_096;

/// The `index`th shape; no two are alike.
pub fn shape(index: usize) -> &'static Shape {
    static SHAPES: LazyLock<Vec<Shape>> = LazyLock::new(|| {
        let mut rng = Rng::new(1);
        let mut seen = HashSet::new();
        let drawn = std::iter::repeat_with(move || Shape::draw(&mut rng));
        drawn.filter(|shape| seen.insert(*shape)).take(MOST).collect()
    });
    &SHAPES[index]
}

/// Splitmix64: the same numbers in every run.
#[derive(Debug, Clone)]
pub struct Rng(u64);

impl Rng {
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// From 0 to `end - 1`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    /// From 0 to 1.
    pub fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}
