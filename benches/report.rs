//! The report of the measurements: goals, figures and pictures out of the files that the measuring programs wrote.
//!
//! `cargo bench --bench report -- [--readme FILE] [--plots FOLDER] FIGURES...` puts the tables between the markers of the page
//! (`benches/README.md`) and the pictures into the folder (`benches/plots`). Runs of one case are put together: medians, and their
//! spread. A file with a line that is no figure ends it with an error before anything is written.

#![allow(clippy::print_stdout, reason = "a program of its own")]

mod figures;
#[path = "report/goals.rs"]
mod goals;
#[path = "report/measured.rs"]
mod measured;
#[path = "report/plots.rs"]
mod plots;
#[path = "report/readme.rs"]
mod readme;
#[path = "report/tables.rs"]
mod tables;

use std::path::PathBuf;

use anyhow::{Context, bail};

fn main() -> anyhow::Result<()> {
    if !figures::is_bench() {
        return Ok(());
    }
    let home = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches");
    let (mut page, mut folder, mut files) = (home.join("README.md"), home.join("plots"), Vec::new());
    let mut arguments = std::env::args().skip(1).filter(|argument| argument != "--bench");
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--readme" => page = arguments.next().context("--readme is followed by a file")?.into(),
            "--plots" => folder = arguments.next().context("--plots is followed by a folder")?.into(),
            flag if flag.starts_with('-') => {
                bail!("{flag}: unknown; --readme FILE, --plots FOLDER and files of figures")
            }
            file => files.push(file.to_owned()),
        }
    }
    if files.is_empty() {
        bail!("no file of figures; {} names it to the measuring programs", figures::FILE);
    }
    let mut text = String::new();
    for file in &files {
        let part = std::fs::read_to_string(file).with_context(|| file.clone())?;
        measured::read(&part).map_err(anyhow::Error::msg).with_context(|| file.clone())?;
        text += &part;
        text += "\n";
    }
    let all = measured::read(&text).map_err(anyhow::Error::msg)?;
    let pictures = plots::all(&all);
    let names: Vec<&str> = pictures.iter().map(|(name, _)| *name).collect();
    let figures = readme::figures(&all, &names);
    let before = std::fs::read_to_string(&page).with_context(|| page.display().to_string())?;
    let after = readme::put(&before, &figures).map_err(anyhow::Error::msg)?;
    std::fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
    for (name, svg) in &pictures {
        let path = folder.join(name);
        std::fs::write(&path, svg).with_context(|| path.display().to_string())?;
    }
    std::fs::write(&page, after).with_context(|| page.display().to_string())?;
    print!("{figures}");
    println!("\nwritten: {}, {} pictures in {}", page.display(), pictures.len(), folder.display());
    Ok(())
}
