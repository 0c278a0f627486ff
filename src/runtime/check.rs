//! Asking a container runtime's own program whether it understands its configuration, without starting it.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::containerd::Release;
use super::toml::Document;
use super::{File, Registration};

/// Where programs are on hosts, whatever this process's own `PATH` is: it may be that of a container.
const USUAL_FOLDERS: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// A program of the host.
pub fn find_program(name: &str) -> Option<PathBuf> {
    if name.contains('/') {
        return Some(PathBuf::from(name)).filter(|path| is_program(path));
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    let own: Vec<PathBuf> = std::env::split_paths(&path).collect();
    own.into_iter()
        .chain(USUAL_FOLDERS.map(PathBuf::from))
        .map(|folder| folder.join(name))
        .find(|path| is_program(path))
}

/// Whether there is a program at a path.
pub fn is_program(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
}

/// Who judges a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Judge {
    /// `containerd -c FILE config dump`, and whether the runtime is in what it prints.
    Containerd {
        /// containerd.
        program: PathBuf,
        /// Its main file.
        main: PathBuf,
    },
    /// `dockerd --validate --config-file FILE`: Docker 23 and newer.
    Docker {
        /// dockerd.
        program: PathBuf,
        /// Its file.
        file: PathBuf,
    },
    /// `crio --config FILE --config-dir FOLDER config`.
    Crio {
        /// crio.
        program: PathBuf,
        /// Its main file.
        main: PathBuf,
        /// Its folder of drop-ins.
        drop_ins: PathBuf,
    },
}

impl Judge {
    /// Asks. What it prints, or what is wrong.
    ///
    /// # Errors
    /// The last line that the program complained with, in words for the administrator.
    pub fn ask(&self) -> Result<String, String> {
        match self {
            Self::Containerd { program, main } => {
                output(Command::new(program).arg("--config").arg(main).args(["config", "dump"]))
            }
            Self::Docker { program, file } => {
                output(Command::new(program).arg("--validate").arg("--config-file").arg(file))
            }
            Self::Crio { program, main, drop_ins } => {
                let mut command = Command::new(program);
                // It complains of a file that was named and is not there.
                if main.exists() {
                    command.arg("--config").arg(main);
                }
                output(command.arg("--config-dir").arg(drop_ins).arg("config"))
            }
        }
    }

    /// Asks, and looks for the registered runtime in the answer where it can be read.
    ///
    /// # Errors
    /// What is wrong.
    pub fn confirm(&self, wanted: &Registration, program: &str) -> Result<(), String> {
        let printed = self.ask()?;
        match self {
            Self::Containerd { .. } => confirm_dump(&printed, wanted, program),
            Self::Docker { .. } | Self::Crio { .. } => Ok(()),
        }
    }
}

/// The release of a containerd.
pub fn release(containerd: &Path) -> Release {
    output(Command::new(containerd).arg("--version")).map(|text| Release::of_version_output(&text)).unwrap_or_default()
}

fn output(command: &mut Command) -> Result<String, String> {
    let shown = std::iter::once(command.get_program()).chain(command.get_args()).map(|word| word.to_string_lossy());
    let shown = shown.collect::<Vec<_>>().join(" ");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("`{shown}`: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let told = String::from_utf8_lossy(&output.stderr);
    let last = told.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
    Err(format!("`{shown}`: {last}"))
}

/// What containerd makes of its files must hold what was written into them.
fn confirm_dump(printed: &str, wanted: &Registration, program: &str) -> Result<(), String> {
    let dump = Document::parse(&File::new("containerd config dump", printed)).map_err(|error| error.to_string())?;
    let name = wanted.name.as_str();
    // What is disabled is not shown.
    let disabled = dump.texts(&["disabled_plugins"]).unwrap_or_default();
    if disabled
        .iter()
        .any(|plugin| ["cri", "io.containerd.grpc.v1.cri", "io.containerd.cri.v1.runtime"].contains(plugin))
    {
        return Ok(());
    }
    let sections = ["io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri", "cri"];
    let found = sections.iter().find_map(|section| {
        let runtime = ["plugins", section, "containerd", "runtimes", name, "options", "BinaryName"];
        dump.get(&runtime)?.as_str().map(|found| (*section, found.to_owned()))
    });
    let Some((section, found)) = found else {
        return Err(format!(
            "`containerd config dump` does not show the runtime {name}: another file overrules the change"
        ));
    };
    if found != program {
        return Err(format!("`containerd config dump` shows {found} as the program of {name} instead of {program}"));
    }
    let default =
        dump.get(&["plugins", section, "containerd", "default_runtime_name"]).and_then(toml_edit::Item::as_str);
    if wanted.default && default != Some(name) {
        let default = default.unwrap_or_default();
        return Err(format!("`containerd config dump` shows \"{default}\" as the default runtime instead of {name}"));
    }
    Ok(())
}
