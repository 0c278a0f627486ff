//! Which container runtime a host has, where its files are, and who judges them.

use std::fmt;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::bail;

use crate::runtime::check::{self, Judge, find_program};
use crate::runtime::containerd::{self, Release};
use crate::runtime::restart::Restart;
use crate::runtime::toml::Document;
use crate::runtime::{Plan, Registration, crio, docker, files, imports, rancher};

use super::options::{Options, RuntimeFlag};

/// A container runtime, with what is usual for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Docker,
    Containerd,
    Crio,
    K3s,
    Rke2,
}

impl Kind {
    const ALL: [Self; 5] = [Self::Docker, Self::Containerd, Self::Crio, Self::K3s, Self::Rke2];

    /// None for `auto`.
    pub(super) fn of_flag(flag: RuntimeFlag) -> Option<Self> {
        match flag {
            RuntimeFlag::Auto => None,
            RuntimeFlag::Docker => Some(Self::Docker),
            RuntimeFlag::Containerd => Some(Self::Containerd),
            RuntimeFlag::Crio => Some(Self::Crio),
            RuntimeFlag::K3s => Some(Self::K3s),
            RuntimeFlag::Rke2 => Some(Self::Rke2),
        }
    }

    /// By the name of a configuration file, where that tells.
    pub(super) fn of_path(path: &Path) -> Option<Self> {
        let name = path.file_name()?.to_string_lossy();
        let within = |folder: &str| path.components().any(|part| part.as_os_str() == folder);
        match () {
            () if within("rke2") => Some(Self::Rke2),
            () if within("k3s") || name.ends_with(".tmpl") => Some(Self::K3s),
            () if within("crio") || name.starts_with("crio.conf") => Some(Self::Crio),
            () if name.ends_with(".json") => Some(Self::Docker),
            () if within("containerd") => Some(Self::Containerd),
            () => None,
        }
    }

    /// Whether its containers are containerd's.
    pub(super) fn has_containerd(self) -> bool {
        matches!(self, Self::Containerd | Self::K3s | Self::Rke2)
    }

    fn usual_config(self) -> &'static str {
        match self {
            Self::Docker => "/etc/docker/daemon.json",
            Self::Containerd => "/etc/containerd/config.toml",
            Self::Crio => "/etc/crio/crio.conf",
            Self::K3s => "/var/lib/rancher/k3s/agent/etc/containerd/config.toml",
            Self::Rke2 => "/var/lib/rancher/rke2/agent/etc/containerd/config.toml",
        }
    }

    fn usual_socket(self) -> &'static str {
        match self {
            Self::Docker => "/run/docker.sock",
            Self::Containerd => "/run/containerd/containerd.sock",
            Self::Crio => "/run/crio/crio.sock",
            Self::K3s | Self::Rke2 => "/run/k3s/containerd/containerd.sock",
        }
    }

    fn units(self) -> &'static [&'static str] {
        match self {
            Self::Docker => &["docker"],
            Self::Containerd => &["containerd"],
            Self::Crio => &["crio", "cri-o"],
            Self::K3s => &["k3s", "k3s-agent"],
            Self::Rke2 => &["rke2-server", "rke2-agent"],
        }
    }

    /// What an administrator types.
    pub(super) fn restart_hint(self) -> String {
        let units = self.units();
        match self {
            Self::K3s | Self::Rke2 => format!("`systemctl restart {}` (on agents: {})", units[0], units[1]),
            _ => format!("`systemctl restart {}`", units[0]),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Docker => "docker",
            Self::Containerd => "containerd",
            Self::Crio => "CRI-O",
            Self::K3s => "k3s",
            Self::Rke2 => "RKE2",
        })
    }
}

/// The container runtime of this host, and its files.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) kind: Kind,
    pub(super) socket: PathBuf,
    pub(super) notes: Vec<String>,
    main: PathBuf,
    drop_in: Option<PathBuf>,
}

impl Host {
    /// # Errors
    /// Where no runtime was named and the host has none or several; where a flag does not fit the runtime.
    pub(super) fn find(options: &Options) -> anyhow::Result<Self> {
        let kind = options.kind.map_or_else(detect, Ok)?;
        let mut notes = Vec::new();
        let mut main = options.config.clone().unwrap_or_else(|| kind.usual_config().into());
        if matches!(kind, Kind::K3s | Kind::Rke2) && main.extension().is_none_or(|extension| extension != "tmpl") {
            if options.config.is_some() {
                notes.push(format!(
                    "{} is written by {kind} at each start; its template is edited instead",
                    main.display()
                ));
            }
            main = main.parent().unwrap_or(Path::new("/")).to_owned();
        }
        if options.drop_in.is_some() && !matches!(kind, Kind::Containerd | Kind::Crio) {
            bail!("--drop-in-config: {kind} has no drop-ins for this; leave it out");
        }
        let mut host = Self { kind, socket: PathBuf::new(), notes, main, drop_in: options.drop_in.clone() };
        host.socket = match &options.socket {
            Some(socket) => socket.clone(),
            None => host.socket_by_configuration()?,
        };
        Ok(host)
    }

    /// How to restart this runtime, where the flag alone does not tell.
    pub(super) fn restart(&self, asked: &Restart) -> Restart {
        match asked {
            Restart::Systemd(_) => Restart::Systemd(self.kind.units().iter().map(|unit| (*unit).to_owned()).collect()),
            Restart::Signal { .. } => Restart::Signal { ends: !matches!(self.kind, Kind::Docker | Kind::Crio) },
            other => other.clone(),
        }
    }

    /// Whether the runtime's program has something to judge before the change: some do not answer without their main file.
    pub(super) fn can_be_judged(&self) -> bool {
        self.kind == Kind::Crio || self.main.exists()
    }

    fn socket_by_configuration(&self) -> anyhow::Result<PathBuf> {
        let keys: &[&[&str]] = match self.kind {
            Kind::Containerd => &[&["grpc", "address"], &["plugins", "io.containerd.server.v1.grpc", "address"]],
            Kind::Crio => &[&["crio", "api", "listen"]],
            Kind::Docker | Kind::K3s | Kind::Rke2 => &[],
        };
        if !keys.is_empty() {
            let file = files::read(&self.main)?;
            let document = Document::parse(&file)?;
            for key in keys {
                if let Some(socket) = document.text(key)?.filter(|socket| !socket.is_empty()) {
                    return Ok(PathBuf::from(socket));
                }
            }
        }
        Ok(self.kind.usual_socket().into())
    }

    /// What is to change.
    ///
    /// # Errors
    /// Names the file, with line and column where it does not parse.
    pub(super) fn plan(&self, wanted: &Registration) -> anyhow::Result<Plan> {
        let plan = match self.kind {
            Kind::Docker => docker::plan(files::read(&self.main)?, wanted)?,
            Kind::Containerd => containerd::plan(self.containerd()?, wanted)?,
            Kind::Crio => crio::plan(&self.crio()?, wanted)?,
            Kind::K3s => rancher::plan(self.rancher("k3s")?, wanted)?,
            Kind::Rke2 => rancher::plan(self.rancher("rke2")?, wanted)?,
        };
        Ok(plan)
    }

    /// Who is asked about the result.
    pub(super) fn judge(&self) -> Option<Judge> {
        let main = self.main.clone();
        match self.kind {
            Kind::Containerd => Some(Judge::Containerd { program: find_program("containerd")?, main }),
            Kind::Docker => Some(Judge::Docker { program: find_program("dockerd")?, file: main }),
            Kind::Crio => Some(Judge::Crio { program: find_program("crio")?, drop_ins: self.crio_folder(), main }),
            // The configuration is made from the template at the next start only.
            Kind::K3s | Kind::Rke2 => None,
        }
    }

    fn containerd(&self) -> anyhow::Result<containerd::Configuration> {
        let read = imports::load(&self.main)?;
        let release = find_program("containerd").map_or_else(Release::default, |program| check::release(&program));
        let drop_in = self.drop_in.as_deref().map(files::read).transpose()?;
        let drop_in_is_imported = match (&drop_in, read.first()) {
            (Some(drop_in), Some(main)) => imports::find(main, &drop_in.path)?,
            _ => false,
        };
        Ok(containerd::Configuration { files: read, drop_in, drop_in_is_imported, release })
    }

    fn crio_folder(&self) -> PathBuf {
        let mut folder = self.main.clone().into_os_string();
        folder.push(".d");
        PathBuf::from(folder)
    }

    fn crio(&self) -> anyhow::Result<crio::Configuration> {
        let folder = self.crio_folder();
        let mut paths = vec![self.main.clone()];
        collect(&folder, &mut paths)?;
        // A file that was named is edited itself.
        let named = self.main != Path::new(Kind::Crio.usual_config());
        let target = match &self.drop_in {
            Some(drop_in) => drop_in.clone(),
            None if named => self.main.clone(),
            None => folder.join("99-nvidia.toml"),
        };
        if !paths.contains(&target) {
            paths.push(target.clone());
        }
        paths[1..].sort();
        let files = paths.iter().map(|path| files::read(path)).collect::<Result<_, _>>()?;
        Ok(crio::Configuration { files, target })
    }

    fn rancher(&self, distribution: &'static str) -> anyhow::Result<rancher::Configuration> {
        let named = self.main.extension().is_some_and(|extension| extension == "tmpl");
        let folder = if named { self.main.parent().unwrap_or(Path::new("/")) } else { &self.main };
        let templates = if named {
            vec![files::read(&self.main)?]
        } else {
            vec![files::read(&folder.join("config-v3.toml.tmpl"))?, files::read(&folder.join("config.toml.tmpl"))?]
        };
        let own = Path::new("/etc/rancher").join(distribution);
        let drop_ins = own.join("config.yaml.d");
        let settings_drop_in = drop_ins.join("99-packhorse.yaml");
        let mut paths = Vec::new();
        collect(&drop_ins, &mut paths)?;
        paths.retain(|path| path.extension().is_some_and(|extension| extension == "yaml" || extension == "yml"));
        if !paths.contains(&settings_drop_in) {
            paths.push(settings_drop_in.clone());
        }
        paths.sort();
        paths.insert(0, own.join("config.yaml"));
        let settings = paths.iter().map(|path| files::read(path)).collect::<Result<_, _>>()?;
        let rendered = files::read(&folder.join("config.toml"))?;
        Ok(rancher::Configuration { distribution, templates, rendered, settings, settings_drop_in })
    }
}

/// NVIDIA's runtime on this host: where its packages install it, else where the GPU operator does.
pub(super) fn nvidia_runtime() -> Option<String> {
    let usual = [crate::runtime::USUAL_PROGRAM, "/usr/local/nvidia/toolkit/nvidia-container-runtime"];
    let usual = usual.into_iter().find(|path| check::is_program(Path::new(path))).map(ToOwned::to_owned);
    usual.or_else(|| find_program("nvidia-container-runtime").map(|path| path.display().to_string()))
}

/// All files below a folder; none where there is no such folder.
///
/// # Errors
/// A folder that cannot be read: what it holds might overrule the change.
fn collect(folder: &Path, into: &mut Vec<PathBuf>) -> Result<(), files::Error> {
    let failed = |source| files::Error::Io { what: "list", path: folder.to_owned(), source };
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            collect(&path, into)?;
        } else {
            into.push(path);
        }
    }
    Ok(())
}

/// The runtime whose socket is there, else the one whose configuration is there.
fn detect() -> anyhow::Result<Kind> {
    // k3s and RKE2 have the same socket.
    let agent = |kind: Kind| Path::new(kind.usual_config()).parent().is_some_and(Path::exists);
    let runs = |kind: &Kind| {
        Path::new(kind.usual_socket()).exists() && (!matches!(kind, Kind::K3s | Kind::Rke2) || agent(*kind))
    };
    let mut found: Vec<Kind> = Kind::ALL.into_iter().filter(runs).collect();
    if found.is_empty() {
        found = Kind::ALL.into_iter().filter(|kind| agent(*kind)).collect();
    }
    match found[..] {
        [kind] => Ok(kind),
        [] => bail!("no container runtime was found on this host; name it with --runtime"),
        _ => {
            let names: Vec<String> = found.iter().map(ToString::to_string).collect();
            bail!("this host has {}; name the one that Kubernetes uses with --runtime", names.join(" and "))
        }
    }
}
