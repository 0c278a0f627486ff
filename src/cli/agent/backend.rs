//! `--gpu-backend`.

use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use crate::agent::backend::Backend;
use crate::agent::backend::fake::Fake;
use crate::agent::backend::nvml::{self, Nvml};
use crate::agent::options::Options;

/// What the flag says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Choice {
    /// NVIDIA's library.
    Nvml,
    /// A topology file.
    Fake(PathBuf),
}

impl FromStr for Choice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "nvml" => Ok(Self::Nvml),
            Some(("fake", file)) if !file.is_empty() => Ok(Self::Fake(PathBuf::from(file))),
            _ => Err("write nvml, or fake:FILE with a topology file".to_owned()),
        }
    }
}

impl Choice {
    /// Nothing is loaded or read yet.
    pub fn open(self, library: Option<PathBuf>, options: &Options) -> Arc<dyn Backend> {
        match self {
            Self::Nvml => {
                let driver_root = options.own_driver_root();
                let host_root = options.driver_root.clone();
                Arc::new(Nvml::new(nvml::Settings { library, driver_root, host_root, ..nvml::Settings::default() }))
            }
            Self::Fake(file) => Arc::new(Fake::new(file)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_is_nvml_or_a_file() {
        assert_eq!("nvml".parse(), Ok(Choice::Nvml));
        assert_eq!("fake:/etc/a:b.yaml".parse(), Ok(Choice::Fake("/etc/a:b.yaml".into())));
        for text in ["", "fake", "fake:", "cuda", "nvml:x"] {
            assert!(text.parse::<Choice>().is_err(), "{text}");
        }
    }
}
