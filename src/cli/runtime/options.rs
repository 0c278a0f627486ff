//! The flags of `packhorse runtime configure`. Their names are those of `nvidia-ctk runtime configure`, and the environment variables
//! are those of NVIDIA's toolkit container, as the GPU operator's users set them. A flag beats a variable; an empty variable counts as
//! not set. Paths are the host's, seen below `--host-root`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::ValueEnum;

use crate::runtime::Registration;
use crate::runtime::restart::Restart;

use super::host::Kind;

/// Register NVIDIA's runtime with this node's container runtime.
///
/// Everything else in its configuration stays as it is. Running it again changes nothing.
#[derive(Debug, clap::Args)]
#[expect(clippy::doc_markdown, reason = "this is the help text, which is no Markdown")]
pub(super) struct Args {
    /// The container runtime [env: RUNTIME] [default: the one this host runs]
    #[arg(long, value_enum)]
    runtime: Option<RuntimeFlag>,
    /// The configuration file [env: RUNTIME_CONFIG, CONTAINERD_CONFIG, DOCKER_CONFIG] [default: the runtime's usual one]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// containerd, CRI-O: write into this file of our own, which is imported where it is not yet [env: RUNTIME_DROP_IN_CONFIG]
    #[arg(long, value_name = "FILE")]
    drop_in_config: Option<PathBuf>,
    /// The runtime's name, which is the handler of its RuntimeClass [env: CONTAINERD_RUNTIME_CLASS, NVIDIA_RUNTIME_NAME] [default: nvidia]
    #[arg(long, value_name = "NAME", alias = "runtime-class", alias = "nvidia-runtime-class")]
    nvidia_runtime_name: Option<String>,
    /// NVIDIA's runtime [default: the one that is registered, else the host's nvidia-container-runtime]
    #[arg(long, value_name = "FILE")]
    nvidia_runtime_path: Option<PathBuf>,
    /// Make it the runtime of containers that name none [env: CONTAINERD_SET_AS_DEFAULT, NVIDIA_RUNTIME_SET_AS_DEFAULT] [default: false]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        alias = "nvidia-set-as-default", value_parser = switch
    )]
    set_as_default: Option<bool>,
    /// Let the container runtime read CDI files; =false leaves that as it is [default: true]
    #[arg(
        long, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true",
        alias = "cdi.enabled", alias = "enable-cdi", value_parser = switch
    )]
    cdi: Option<bool>,
    /// Show the change as a unified diff and write nothing
    #[arg(long)]
    dry_run: bool,
    /// How to restart the container runtime after a change [env: RUNTIME_RESTART_MODE] [default: none]
    #[arg(long, value_enum)]
    restart: Option<RestartFlag>,
    /// A shell command that restarts it
    #[arg(long, value_name = "COMMAND", conflicts_with = "restart")]
    restart_command: Option<String>,
    /// Seconds until the socket must answer after a restart; then the change is taken back
    #[arg(long, value_name = "SECONDS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=3_600))]
    restart_timeout: u64,
    /// The container runtime's socket [env: RUNTIME_SOCKET, CONTAINERD_SOCKET, DOCKER_SOCKET] [default: the runtime's usual one]
    #[arg(long, value_name = "FILE")]
    socket: Option<PathBuf>,
    /// Where the host's root is mounted; in a pod this needs CAP_SYS_CHROOT [env: HOST_ROOT_MOUNT] [default: /]
    #[arg(long, value_name = "DIR")]
    host_root: Option<PathBuf>,
    /// Do not ask the runtime's own program (`containerd config dump`, `dockerd --validate`, `crio config`) about the result
    #[arg(long)]
    skip_check: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum RuntimeFlag {
    Auto,
    Docker,
    Containerd,
    Crio,
    K3s,
    Rke2,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum RestartFlag {
    /// Leave it running; it takes the change when it starts next
    None,
    /// `systemctl restart` of its unit
    Systemd,
    /// SIGHUP to the process behind its socket
    Signal,
}

/// What the flags and variables say together.
#[derive(Debug)]
pub(super) struct Options {
    /// None: the one that this host runs.
    pub(super) kind: Option<Kind>,
    pub(super) config: Option<PathBuf>,
    pub(super) drop_in: Option<PathBuf>,
    pub(super) registration: Registration,
    pub(super) dry_run: bool,
    pub(super) restart: Restart,
    pub(super) patience: Duration,
    pub(super) socket: Option<PathBuf>,
    pub(super) host_root: Option<PathBuf>,
    pub(super) skip_check: bool,
    pub(super) notes: Vec<String>,
}

impl Options {
    /// Reads the variables behind the flags.
    ///
    /// # Errors
    /// Names the flag or variable, its value and what may stand there.
    pub(super) fn resolve(args: Args, variable: &dyn Fn(&str) -> Option<String>) -> anyhow::Result<Self> {
        let Args {
            runtime,
            config,
            drop_in_config,
            nvidia_runtime_name,
            nvidia_runtime_path,
            set_as_default,
            cdi,
            dry_run,
            restart,
            restart_command,
            restart_timeout,
            socket,
            host_root,
            skip_check,
        } = args;
        let variable = |name: &str| variable(name).filter(|value| !value.is_empty());
        let first = |names: &[&'static str]| names.iter().find_map(|name| Some((*name, variable(name)?)));
        let mut notes = Vec::new();

        // `auto` says as little as nothing.
        let runtime = match (runtime.filter(|flag| *flag != RuntimeFlag::Auto), variable("RUNTIME")) {
            (None, Some(value)) => Some(choice::<RuntimeFlag>("RUNTIME", &value)?),
            (flag, _) => flag,
        };
        let mut kind = runtime.and_then(Kind::of_flag);
        let config = match config {
            Some(file) => Some(file),
            None => {
                let (file, of) = config_of(kind, &variable, &mut notes)?;
                kind = kind.or(of);
                file
            }
        };
        // As the operator's users set it: runtime containerd, and a file of k3s or RKE2.
        if let Some(path) = &config
            && matches!(kind, None | Some(Kind::Containerd))
        {
            let by_path = Kind::of_path(path).filter(|by_path| kind.is_none() || by_path.has_containerd());
            kind = by_path.or(kind);
        }
        let host_root = host_root.or_else(|| variable("HOST_ROOT_MOUNT").map(PathBuf::from));
        let name = nvidia_runtime_name.map(|name| ("--nvidia-runtime-name", name));
        let name = name.or_else(|| first(&["CONTAINERD_RUNTIME_CLASS", "NVIDIA_RUNTIME_NAME"]));
        let name = name.map_or_else(|| Ok("nvidia".to_owned()), |(place, name)| handler(place, name))?;
        let default = match set_as_default {
            Some(default) => default,
            None => first(&["CONTAINERD_SET_AS_DEFAULT", "NVIDIA_RUNTIME_SET_AS_DEFAULT"])
                .map_or(Ok(false), |(place, value)| {
                    switch(&value).map_err(|says| anyhow::anyhow!("{place}={value}: {says}"))
                })?,
        };
        let program = nvidia_runtime_path.map(|path| absolute("--nvidia-runtime-path", &path)).transpose()?;
        let drop_in = drop_in_config.or_else(|| variable("RUNTIME_DROP_IN_CONFIG").map(PathBuf::from));
        let socket = socket.or_else(|| {
            first(&["RUNTIME_SOCKET", "CONTAINERD_SOCKET", "DOCKER_SOCKET"]).map(|(_, socket)| PathBuf::from(socket))
        });
        let restart = match (restart_command, restart, variable("RUNTIME_RESTART_MODE")) {
            (Some(command), ..) => Restart::Command(command),
            (None, Some(flag), _) => flag.into(),
            (None, None, Some(value)) => choice::<RestartFlag>("RUNTIME_RESTART_MODE", &value)?.into(),
            (None, None, None) => Restart::Leave,
        };
        let on_host =
            |path: Option<PathBuf>, flag| path.map(|path| host_path(flag, &path, host_root.is_some())).transpose();
        Ok(Self {
            kind,
            config: on_host(config, "--config")?,
            drop_in: on_host(drop_in, "--drop-in-config")?,
            registration: Registration {
                name,
                program: program.map(|path| path.display().to_string()),
                default,
                cdi: cdi.unwrap_or(true),
                ..Registration::default()
            },
            dry_run,
            restart,
            patience: Duration::from_secs(restart_timeout),
            socket: on_host(socket, "--socket")?,
            host_root,
            skip_check,
            notes,
        })
    }
}

impl From<RestartFlag> for Restart {
    /// The rest is the host's; see `Host::restart`.
    fn from(flag: RestartFlag) -> Self {
        match flag {
            RestartFlag::None => Self::Leave,
            RestartFlag::Systemd => Self::Systemd(Vec::new()),
            RestartFlag::Signal => Self::Signal { ends: false },
        }
    }
}

/// The file that a variable names, and the runtime that the variable is of. `DOCKER_CONFIG` is also the docker client's, for its folder; that one is not meant.
fn config_of(
    kind: Option<Kind>,
    variable: &dyn Fn(&str) -> Option<String>,
    notes: &mut Vec<String>,
) -> anyhow::Result<(Option<PathBuf>, Option<Kind>)> {
    if let Some(file) = variable("RUNTIME_CONFIG") {
        return Ok((Some(PathBuf::from(file)), None));
    }
    let docker = variable("DOCKER_CONFIG").filter(|value| {
        let is_file = Path::new(value).extension().is_some_and(|extension| extension == "json");
        if !is_file {
            notes.push(format!("DOCKER_CONFIG={value} is not taken for dockerd's file, as it does not end in .json"));
        }
        is_file
    });
    let containerd = variable("CONTAINERD_CONFIG");
    match (kind, containerd, docker) {
        (None, Some(_), Some(_)) => {
            bail!("CONTAINERD_CONFIG and DOCKER_CONFIG are both set; name the container runtime with --runtime")
        }
        (Some(Kind::Docker) | None, None, docker) => {
            let of = docker.is_some().then_some(Kind::Docker);
            Ok((docker.map(PathBuf::from), of))
        }
        (Some(other @ (Kind::Docker | Kind::Crio)), Some(file), docker) => {
            notes.push(format!("CONTAINERD_CONFIG={file} is not used: the container runtime is {other}"));
            Ok((docker.filter(|_| other == Kind::Docker).map(PathBuf::from), None))
        }
        (_, containerd, _) => {
            let of = containerd.is_some().then_some(Kind::Containerd);
            Ok((containerd.map(PathBuf::from), of))
        }
    }
}

fn choice<T: ValueEnum>(place: &str, value: &str) -> anyhow::Result<T> {
    T::from_str(value, true).map_err(|_| {
        let names: Vec<_> = T::value_variants().iter().filter_map(ValueEnum::to_possible_value).collect();
        let names: Vec<_> = names.iter().map(clap::builder::PossibleValue::get_name).collect();
        anyhow::anyhow!("{place}={value}: must be one of {}", names.join(", "))
    })
}

/// As Go reads switches.
fn switch(value: &str) -> Result<bool, String> {
    match value {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// What a `RuntimeClass` can name: a DNS label (`node.k8s.io/v1`, `handler`).
fn handler(place: &str, name: String) -> anyhow::Result<String> {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    let edge = |c: Option<char>| c.is_some_and(|c| inner(c) && c != '-');
    if name.len() > 63 || !name.chars().all(inner) || !edge(name.chars().next()) || !edge(name.chars().last()) {
        bail!(
            "{place} {name}: must be a name that a RuntimeClass can have as its handler: a-z, 0-9 and -, at most 63 characters"
        );
    }
    Ok(name)
}

fn absolute(flag: &str, path: &Path) -> anyhow::Result<PathBuf> {
    if !path.is_absolute() {
        bail!("{flag} {}: must be an absolute path", path.display());
    }
    Ok(path.to_owned())
}

fn host_path(flag: &str, path: &Path, rooted: bool) -> anyhow::Result<PathBuf> {
    if rooted {
        return absolute(flag, path);
    }
    std::path::absolute(path).with_context(|| format!("{flag} {}", path.display()))
}
