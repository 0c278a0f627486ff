//! Cards in use.
//!
//! ```text
//! set 0 used 1048576                       bytes
//! set 0 rates 35 12                        kernels, memory
//! set 0 clock.1 1410                       1: multiprocessors, 2: memory
//! set 0 lists compute graphics             which processes it can list
//! process 0 compute 4711 1048576 - -       pid, bytes or -, GPU instance, compute instance
//! set 0 samples 1                          it tells how busy processes are
//! sample 0 4711 20
//! ```

use std::ffi::c_uint;
use std::time::{Duration, SystemTime};

use super::*;

#[repr(C)]
struct Rates {
    gpu: c_uint,
    memory: c_uint,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUtilizationRates(device: Handle, rates: *mut Rates) -> Answer {
    finish(about("nvmlDeviceGetUtilizationRates", device, false).and_then(|(s, it)| {
        let told = it.property(&s, "rates")?;
        let (gpu, memory) = told.split_once(' ').unwrap();
        write(rates, Rates { gpu: gpu.parse().unwrap(), memory: memory.parse().unwrap() });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTemperature(device: Handle, sensor: c_uint, value: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetTemperature", device, false).and_then(|(s, it)| {
        if sensor != 0 {
            return Err(INVALID_ARGUMENT);
        }
        write(value, it.number(&s, "temperature")? as c_uint);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetClockInfo(device: Handle, clock: c_uint, value: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetClockInfo", device, false).and_then(|(s, it)| {
        write(value, it.number(&s, &format!("clock.{clock}"))? as c_uint);
        Ok(())
    }))
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Process {
    pid: c_uint,
    memory: u64,
    gpu_instance: c_uint,
    compute_instance: c_uint,
}

/// As the original: a buffer that is too small is told how large it must be, and nothing is written.
fn fill<T: Copy>(all: &[T], count: *mut c_uint, place: *mut T) -> Result<(), Answer> {
    let room = unsafe { *count } as usize;
    write(count, all.len() as c_uint);
    if room < all.len() {
        return Err(INSUFFICIENT_SIZE);
    }
    all.iter().enumerate().for_each(|(at, one)| write(unsafe { place.add(at) }, *one));
    Ok(())
}

fn list(call: &str, kind: &str, device: Handle, count: *mut c_uint, place: *mut Process) -> Answer {
    finish(about(call, device, false).and_then(|(s, it)| {
        if !it.property(&s, "lists")?.split(' ').any(|listed| listed == kind) {
            return Err(NOT_SUPPORTED);
        }
        let lines: Vec<&str> = s.lines(&format!("process {} {kind}", it.name())).collect();
        let number = |text: &str| text.parse().unwrap_or(c_uint::MAX);
        let all: Vec<Process> = lines
            .iter()
            .map(|line| {
                let parts: Vec<&str> = line.split(' ').collect();
                Process {
                    pid: parts[0].parse().unwrap(),
                    memory: parts[1].parse().unwrap_or(u64::MAX),
                    gpu_instance: number(parts[2]),
                    compute_instance: number(parts[3]),
                }
            })
            .collect();
        fill(&all, count, place)
    }))
}

macro_rules! lists {
    ($($call:ident $kind:literal;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $call(device: Handle, count: *mut c_uint, place: *mut Process) -> Answer {
            list(stringify!($call), $kind, device, count, place)
        }
    )*};
}

lists! {
    nvmlDeviceGetComputeRunningProcesses_v3 "compute";
    nvmlDeviceGetGraphicsRunningProcesses_v3 "graphics";
    nvmlDeviceGetMPSComputeRunningProcesses_v3 "mps";
}

#[repr(C)]
#[derive(Clone, Copy)]
struct Sample {
    pid: c_uint,
    timestamp: u64,
    numbers: [c_uint; 4],
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetProcessUtilization(
    device: Handle,
    place: *mut Sample,
    count: *mut c_uint,
    since: u64,
) -> Answer {
    finish(about("nvmlDeviceGetProcessUtilization", device, false).and_then(|(s, it)| {
        it.property(&s, "samples")?;
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
        let since = Duration::from_micros(since);
        if since > now || since + Duration::from_secs(60) < now {
            complain("nvmlDeviceGetProcessUtilization: samples of another age are asked for");
        }
        let samples: Vec<Sample> = s
            .lines(&format!("sample {}", it.name()))
            .map(|line| {
                let (pid, busy) = line.split_once(' ').unwrap();
                let timestamp = now.as_micros() as u64;
                Sample { pid: pid.parse().unwrap(), timestamp, numbers: [busy.parse().unwrap(), 0, 0, 0] }
            })
            .collect();
        if samples.is_empty() {
            return Err(NOT_FOUND);
        }
        fill(&samples, count, place)
    }))
}
