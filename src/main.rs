//! The `packhorse` binary: see [`packhorse::cli`].

fn main() -> std::process::ExitCode {
    packhorse::cli::main()
}
