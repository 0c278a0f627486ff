//! What differs between releases of containerd.

/// What wins where several files hold the same plugin's settings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Merging {
    /// The last file's whole section: containerd before 2.1.
    Sections,
    /// The last file's keys, one by one: containerd 2.1 and newer.
    Keys,
}

/// What is known of the containerd whose configuration it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Release {
    /// Major and minor number, as `containerd --version` tells; None where it could not be asked.
    pub number: Option<(u32, u32)>,
}

impl Release {
    /// Of the output of `containerd --version`: `containerd github.com/containerd/containerd v1.7.2 …`.
    pub fn of_version_output(output: &str) -> Self {
        let number = output.split_whitespace().find_map(|word| {
            let (major, rest) = word.strip_prefix('v').unwrap_or(word).split_once('.')?;
            let minor = rest.split(|c: char| !c.is_ascii_digit()).next()?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        Self { number }
    }

    /// The version of a configuration that is made from nothing. 1.x reads 2 at most, and 2.x reads 2 as well.
    pub(super) fn fresh_version(self) -> i64 {
        if self.number.is_some_and(|number| number >= (2, 0)) { 3 } else { 2 }
    }

    pub(super) fn merging(self, version: i64) -> Merging {
        match self.number {
            Some(number) if number >= (2, 1) => Merging::Keys,
            // Version 3 is 2.0's and newer; 2.0 itself is long past its end.
            None if version >= 3 => Merging::Keys,
            _ => Merging::Sections,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_release_that_containerd_tells() {
        for (output, number) in [
            ("containerd containerd.io 1.6.33 d2d58213f83a351ca8f528a95fbd145f5654e957", Some((1, 6))),
            (
                "containerd github.com/containerd/containerd v1.7.27 05044ec0a9a75232cad458027ca83437aae3f4da",
                Some((1, 7)),
            ),
            ("containerd github.com/containerd/containerd/v2 v2.2.0-k3s1 ", Some((2, 2))),
            ("containerd github.com/containerd/containerd/v2 2.0.0+unknown", Some((2, 0))),
            ("containerd github.com/containerd/containerd 1.6.20~ds1 1.6.20~ds1-1+deb12u3", Some((1, 6))),
            ("containerd", None),
        ] {
            assert_eq!(Release::of_version_output(output).number, number, "{output}");
        }
    }
}
