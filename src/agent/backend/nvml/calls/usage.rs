//! The calls about a device in use: sensors, counters, processes.

use std::ffi::c_uint;

use nvml_wrapper_sys::bindings::{
    nvmlClockType_t, nvmlProcessInfo_t, nvmlProcessUtilizationSample_t, nvmlTemperatureSensors_t, nvmlUtilization_st,
};

use super::super::error::{CallError, code};
use super::{Device, Library, NO_INSTANCE};

/// NVML's `NVML_TEMPERATURE_GPU`.
const ON_THE_DIE: nvmlTemperatureSensors_t = 0;
/// NVML's `NVML_VALUE_NOT_AVAILABLE`.
const NOT_AVAILABLE: u64 = u64::MAX;
/// The longest list that is read: no card has so many processes.
const LONGEST: u32 = 8192;

/// NVML's clocks.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Clock {
    Multiprocessors = 1,
    Memory = 2,
}

/// NVML's lists of processes.
#[derive(Debug, Clone, Copy)]
pub(in super::super) enum Listing {
    Compute,
    Graphics,
    /// Clients of an MPS server.
    Mps,
}

/// A process on a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Listed {
    pub(in super::super) pid: u32,
    /// Bytes.
    pub(in super::super) memory: Option<u64>,
    pub(in super::super) gpu_instance: Option<u32>,
    pub(in super::super) compute_instance: Option<u32>,
}

/// How busy a process kept a card, percent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in super::super) struct Sample {
    pub(in super::super) pid: u32,
    pub(in super::super) multiprocessors: u32,
}

impl Library {
    /// Percent of time: kernels, memory.
    pub(in super::super) fn utilization(&self, device: Device) -> Result<(u32, u32), CallError> {
        let mut rates = nvmlUtilization_st { gpu: 0, memory: 0 };
        call!(self, nvmlDeviceGetUtilizationRates, device.0, &raw mut rates)?;
        Ok((rates.gpu, rates.memory))
    }

    pub(in super::super) fn temperature(&self, device: Device) -> Result<u32, CallError> {
        number(|value| call!(self, nvmlDeviceGetTemperature, device.0, ON_THE_DIE, value))
    }

    /// Milliwatts.
    pub(in super::super) fn power(&self, device: Device) -> Result<u32, CallError> {
        number(|value| call!(self, nvmlDeviceGetPowerUsage, device.0, value))
    }

    /// Milliwatts: the lowest of all limits in force.
    pub(in super::super) fn power_limit(&self, device: Device) -> Result<u32, CallError> {
        number(|value| call!(self, nvmlDeviceGetEnforcedPowerLimit, device.0, value))
    }

    /// MHz.
    pub(in super::super) fn clock(&self, device: Device, clock: Clock) -> Result<u32, CallError> {
        number(|value| call!(self, nvmlDeviceGetClockInfo, device.0, clock as nvmlClockType_t, value))
    }

    /// Millijoules; unsupported before Volta.
    pub(in super::super) fn energy(&self, device: Device) -> Result<u64, CallError> {
        let mut energy = 0;
        call!(self, nvmlDeviceGetTotalEnergyConsumption, device.0, &raw mut energy)?;
        Ok(energy)
    }

    /// The processes of one kind. Asked of a card in MIG mode it names those of all instances; drivers before 510 lack it.
    pub(in super::super) fn processes(&self, device: Device, listing: Listing) -> Result<Vec<Listed>, CallError> {
        let blank = nvmlProcessInfo_t {
            pid: 0,
            usedGpuMemory: NOT_AVAILABLE,
            gpuInstanceId: NO_INSTANCE,
            computeInstanceId: NO_INSTANCE,
        };
        let infos = list(blank, |count, infos| match listing {
            Listing::Compute => call!(self, nvmlDeviceGetComputeRunningProcesses_v3, device.0, count, infos),
            Listing::Graphics => call!(self, nvmlDeviceGetGraphicsRunningProcesses_v3, device.0, count, infos),
            Listing::Mps => call!(self, nvmlDeviceGetMPSComputeRunningProcesses_v3, device.0, count, infos),
        })?;
        let instance = |id: c_uint| (id != NO_INSTANCE).then_some(id);
        let listed = infos.into_iter().map(|info| Listed {
            pid: info.pid,
            memory: (info.usedGpuMemory != NOT_AVAILABLE).then_some(info.usedGpuMemory),
            gpu_instance: instance(info.gpuInstanceId),
            compute_instance: instance(info.computeInstanceId),
        });
        Ok(listed.collect())
    }

    /// What processes did since `since`, microseconds of Unix time; those that did nothing are not named.
    pub(in super::super) fn samples(&self, device: Device, since: u64) -> Result<Vec<Sample>, CallError> {
        let blank =
            nvmlProcessUtilizationSample_t { pid: 0, timeStamp: 0, smUtil: 0, memUtil: 0, encUtil: 0, decUtil: 0 };
        let samples =
            list(blank, |count, samples| call!(self, nvmlDeviceGetProcessUtilization, device.0, samples, count, since));
        match samples {
            Ok(samples) => Ok(samples
                .into_iter()
                .map(|sample| Sample { pid: sample.pid, multiprocessors: sample.smUtil })
                .collect()),
            // There is no sample.
            Err(error) if error.is(code::NOT_FOUND) => Ok(Vec::new()),
            Err(error) => Err(error),
        }
    }
}

fn number(read: impl Fn(*mut c_uint) -> Result<(), CallError>) -> Result<u32, CallError> {
    let mut value = 0;
    read(&raw mut value)?;
    Ok(value)
}

/// Reads a list into a buffer, and into larger ones where it is too small: processes come while we ask.
fn list<T: Copy>(blank: T, fill: impl Fn(*mut c_uint, *mut T) -> Result<(), CallError>) -> Result<Vec<T>, CallError> {
    let mut room: c_uint = 64;
    loop {
        let mut buffer = vec![blank; room as usize];
        let mut count = room;
        match fill(&raw mut count, buffer.as_mut_ptr()) {
            Ok(()) => {
                buffer.truncate(count as usize);
                return Ok(buffer);
            }
            Err(error) if error.is(code::INSUFFICIENT_SIZE) && room < LONGEST => {
                room = count.max(room).saturating_mul(2).min(LONGEST);
            }
            Err(error) => return Err(error),
        }
    }
}
