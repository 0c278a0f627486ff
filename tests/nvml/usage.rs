//! How busy and full cards are, and by which processes, as the driver tells it.

use packhorse::agent::backend::{Backend as _, CardUsage, Memory, Process, Reading, Usage};

use super::fake::{Fake, discover, uuid};
use super::mig::{instance, mig_uuid, with_instances};

/// What is read of a node that was found before.
fn usage(fake: &Fake) -> Usage {
    let nvml = fake.backend();
    discover(&nvml);
    nvml.usage().unwrap()
}

fn card(usage: &Usage, index: usize) -> &CardUsage {
    usage.cards.iter().find(|card| *card.uuid == uuid(index)).unwrap()
}

fn process(pid: u32, memory: Option<u64>, utilization: Option<u32>) -> Process {
    Process { pid, instance: None, memory, utilization }
}

const READINGS: &str = "set 0 used 3145728000
set 0 rates 35 12
set 0 temperature 54
set 0 power 310250
set 0 limit 700000
set 0 clock.1 1980
set 0 clock.2 2619
set 0 energy 5000000000000
set 0 lists compute graphics mps
set 0 samples 1";

#[test]
fn reads_everything_that_a_card_tells() {
    let mut fake = Fake::with_cards(1);
    fake.change(READINGS);
    let usage = usage(&fake);
    let card = card(&usage, 0);
    let expected = Reading {
        // 81,559 MiB, of which the driver keeps 256.
        memory: Some(Memory { used: 3000, free: 78_303 }),
        utilization: Some(35),
        memory_utilization: Some(12),
        temperature: Some(54),
        power: Some(310_250),
        power_limit: Some(700_000),
        sm_clock: Some(1980),
        memory_clock: Some(2619),
        energy: Some(5_000_000_000_000),
    };
    assert_eq!(card.reading, expected);
    assert_eq!((card.processes.as_deref(), card.tells_by_process), (Some(&[][..]), true));
    assert_eq!(usage.unread, []);
}

#[test]
fn what_a_card_lacks_is_unknown_and_no_failure() {
    let fake = Fake::with_cards(1);
    let usage = usage(&fake);
    let card = card(&usage, 0);
    let memory = Some(Memory { used: 0, free: 81_303 });
    assert_eq!(card.reading, Reading { memory, ..Reading::default() });
    assert_eq!((&card.processes, card.tells_by_process), (&None, false));
    assert_eq!(usage.unread, []);
}

#[test]
fn an_old_driver_tells_what_it_can() {
    let mut fake = Fake::with_cards(1);
    fake.change(READINGS);
    for function in [
        "nvmlDeviceGetMemoryInfo_v2",
        "nvmlDeviceGetProcessUtilization",
        "nvmlDeviceGetMPSComputeRunningProcesses_v3",
        "nvmlDeviceGetTotalEnergyConsumption",
    ] {
        fake = fake.without(function);
    }
    fake.add("process 0 compute 10 1048576 - -");
    let usage = usage(&fake);
    let card = card(&usage, 0);
    assert_eq!(card.reading.memory, Some(Memory { used: 3000, free: 78_559 }));
    assert_eq!(card.reading.energy, None);
    assert_eq!(card.processes.as_deref(), Some(&[process(10, Some(1), None)][..]));
    assert_eq!(usage.unread, []);
}

#[test]
fn each_process_is_there_once_with_what_it_uses() {
    let mut fake = Fake::with_cards(1);
    fake.change(READINGS);
    fake.add(
        "process 0 compute 10 2097152000 - -
process 0 compute 11 - - -
process 0 graphics 10 2097152000 - -
process 0 graphics 12 1048576 - -
process 0 mps 13 5242880 - -
sample 0 10 30
sample 0 10 50
sample 0 11 4000000000
sample 0 12 7",
    );
    let usage = usage(&fake);
    let expected = [
        process(10, Some(2000), Some(40)),
        // Its memory the driver does not know; its sample is no percentage.
        process(11, None, Some(0)),
        process(12, Some(1), Some(7)),
        process(13, Some(5), Some(0)),
    ];
    assert_eq!(card(&usage, 0).processes.as_deref(), Some(&expected[..]));
}

#[test]
fn more_processes_than_there_was_room_for_are_all_read() {
    let mut fake = Fake::with_cards(1);
    fake.change(READINGS);
    let lines: Vec<String> = (1..=500).map(|pid| format!("process 0 compute {pid} 1048576 - -")).collect();
    fake.add(&lines.join("\n"));
    let samples: Vec<String> = (1..=500).map(|pid| format!("sample 0 {pid} 1")).collect();
    fake.add(&samples.join("\n"));
    let usage = usage(&fake);
    let processes = card(&usage, 0).processes.as_ref().unwrap();
    assert_eq!(processes.len(), 500);
    assert!(processes.iter().all(|process| process.utilization == Some(1)));
}

#[test]
fn processes_of_instances_are_told_by_their_numbers() {
    let mut fake = with_instances(&[instance(0, 1, 1, 9_728, "1g.10gb"), instance(2, 3, 3, 40_320, "3g.40gb")]);
    fake.change(
        "set 0/0 memory 10200547328
set 0/0 used 1073741824
set 0 lists compute
process 0 compute 10 1048576 3 0
process 0 compute 10 2097152 5 0
process 0 compute 11 3145728 9 0
process 0 compute 12 4194304 - -
set 0 samples 1",
    );
    let usage = usage(&fake);
    let card = card(&usage, 0);
    let told: Vec<_> = card.instances.iter().map(|it| (&*it.uuid, it.gpu_instance, it.memory)).collect();
    let memory = Memory { used: 1024, free: 8448 };
    assert_eq!(told, [(&*mig_uuid(0), Some(3), Some(memory)), (&*mig_uuid(2), Some(5), None)]);
    let told: Vec<_> = card.processes.iter().flatten().map(|it| (it.pid, it.instance.as_deref(), it.memory)).collect();
    let expected = [
        (10, Some(mig_uuid(0)), Some(1)),
        (10, Some(mig_uuid(2)), Some(2)),
        // Of an instance that is not there any more, and of none.
        (11, None, Some(3)),
        (12, None, Some(4)),
    ];
    assert_eq!(told, expected.each_ref().map(|(pid, uuid, memory)| (*pid, uuid.as_deref(), *memory)));
    assert!(!card.tells_by_process, "not in MIG mode");
}

#[test]
fn one_bad_card_or_call_leaves_the_rest_whole() {
    let mut fake = Fake::with_cards(3);
    fake.change(&[READINGS, &READINGS.replace("set 0", "set 1"), &READINGS.replace("set 0", "set 2")].join("\n"));
    let nvml = fake.backend();
    discover(&nvml);
    fake.change("lost 1\nfail nvmlDeviceGetTemperature 0 999\nfail nvmlDeviceGetComputeRunningProcesses_v3 2 999");
    let usage = nvml.usage().unwrap();
    let [zero, one, two] = [0, 1, 2].map(|index| card(&usage, index));
    assert_eq!((zero.reading.temperature, zero.reading.power), (None, Some(310_250)));
    assert!(zero.processes.is_some());
    assert_eq!((one.reading, &one.processes), (Reading::default(), &None));
    assert_eq!((two.reading.temperature, &two.processes), (Some(54), &None));
    let failed: Vec<(&str, bool)> =
        usage.unread.iter().map(|unread| (unread.call, unread.reason.starts_with("GPU-"))).collect();
    let mut failed_calls: Vec<&str> = failed.iter().map(|(call, _)| *call).collect();
    failed_calls.sort_unstable();
    let expected =
        ["nvmlDeviceGetComputeRunningProcesses_v3", "nvmlDeviceGetMemoryInfo_v2", "nvmlDeviceGetTemperature"];
    assert_eq!(failed_calls, expected, "a lost card is not asked on and on");
    assert!(failed.iter().all(|(_, named)| *named), "{:?}", usage.unread);
}

#[test]
fn without_a_driver_there_is_nothing_to_read() {
    let fake = Fake::new("init 9\ncards 0\ndriver 1");
    let nvml = fake.backend();
    nvml.discover().unwrap_err();
    nvml.usage().unwrap_err();
}
