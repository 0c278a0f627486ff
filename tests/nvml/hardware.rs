//! The same code on a real GPU, against what `nvidia-smi` says. Only on request, where there is one:
//! `cargo test --test packhorse nvml::hardware -- --ignored --nocapture` prints the inventory.

use std::process::Command;
use std::time::Duration;

use packhorse::agent::backend::nvml::{Nvml, Settings};
use packhorse::agent::backend::{Backend as _, Probe};

use super::fake::discover;

#[test]
#[ignore = "needs an NVIDIA GPU with its driver"]
fn reads_this_machine_as_nvidia_smi_does() {
    let output = Command::new("nvidia-smi")
        .args(["--query-gpu=uuid,index,name,pci.bus_id,memory.total,driver_version", "--format=csv,noheader,nounits"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let listed = String::from_utf8(output.stdout).unwrap();

    let nvml = Nvml::new(Settings::default());
    let found = discover(&nvml);
    println!("{found:#?}");
    assert_eq!(found.unreadable, Vec::<String>::new());
    assert_eq!(found.cards.len(), listed.lines().count());
    for line in listed.lines() {
        let [uuid, index, name, pci, memory, driver] = line.split(", ").collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let card = found.cards.iter().find(|card| &*card.uuid == uuid).unwrap();
        assert_eq!((card.index.to_string().as_str(), &*card.model, found.driver.as_str()), (index, name, driver));
        // NVIDIA writes eight digits of the domain, the kernel at least four.
        assert!(pci.to_lowercase().ends_with(&*card.pci), "{pci} and {}", card.pci);
        assert!(std::path::Path::new("/sys/bus/pci/devices").join(&*card.pci).exists(), "{}", card.pci);
        assert_eq!(card.memory.to_string(), memory);
        assert_eq!(nvml.probe(uuid), Probe::Well);
    }
    assert_eq!(nvml.next_event(Duration::from_secs(1)), Ok(None));
    // Loading and unloading the real library again must do no harm.
    drop(nvml);
    assert_eq!(discover(&Nvml::new(Settings::default())), found);
}

#[test]
#[ignore = "needs an NVIDIA GPU with its driver"]
fn reads_this_machine_in_use_as_nvidia_smi_does() {
    let fields = "uuid,memory.used,temperature.gpu,power.draw,enforced.power.limit,clocks.sm,utilization.gpu";
    let nvml = Nvml::new(Settings::default());
    discover(&nvml);
    let usage = nvml.usage().unwrap();
    println!("{usage:#?}");
    assert_eq!(usage.unread, []);
    let output = Command::new("nvidia-smi")
        .args([&format!("--query-gpu={fields}"), "--format=csv,noheader,nounits"])
        .output()
        .unwrap();
    for line in String::from_utf8(output.stdout).unwrap().lines() {
        let parts: Vec<&str> = line.split(", ").collect();
        let reading = usage.cards.iter().find(|card| *card.uuid == *parts[0]).unwrap().reading;
        let told = [
            reading.memory.map(|memory| memory.used as f64),
            reading.temperature.map(f64::from),
            reading.power.map(|milliwatts| f64::from(milliwatts) / 1000.0),
            reading.power_limit.map(|milliwatts| f64::from(milliwatts) / 1000.0),
            reading.sm_clock.map(f64::from),
            reading.utilization.map(f64::from),
        ];
        // `[N/A]` where the card does not tell. Values move between two questions.
        for (place, (told, said)) in told.into_iter().zip(&parts[1..]).enumerate() {
            let said: Option<f64> = said.parse().ok();
            assert_eq!(told.is_some(), said.is_some(), "{place} of {line}");
            let (told, said) = (told.unwrap_or_default(), said.unwrap_or_default());
            assert!((told - said).abs() <= 100.0_f64.max(said * 0.5), "{place} of {line}: {told}");
        }
    }
    let output =
        Command::new("nvidia-smi").args(["--query-compute-apps=pid", "--format=csv,noheader"]).output().unwrap();
    let listed = usage.cards.iter().flat_map(|card| card.processes.as_ref().unwrap());
    let listed: std::collections::BTreeSet<String> = listed.map(|process| process.pid.to_string()).collect();
    for pid in String::from_utf8(output.stdout).unwrap().lines().filter(|line| line.parse::<u32>().is_ok()) {
        assert!(listed.contains(pid), "process {pid} is not among {listed:?}");
    }
}
