//! The calls of `libnvidia-ml`, made safe: the one module with foreign code. It knows return codes and buffers and draws no
//! conclusions. Every failed call is a [`CallError`] with the function's name, also where the library lacks the function.
//!
//! We use the generated bindings (`nvml-wrapper-sys`) and not the wrapper above them, which drops the instance of an event,
//! has no fabric and no placements, and asks old drivers for calls they do not have.
#![expect(unsafe_code, reason = "NVML is a C library")]

use std::ffi::{CStr, OsStr, c_char, c_uint};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nvml_wrapper_sys::bindings::field_id::NVML_FI_DEV_GET_GPU_RECOVERY_ACTION;
use nvml_wrapper_sys::bindings::{
    NvmlLib, nvmlDevice_t, nvmlDeviceAttributes_st, nvmlEventData_st, nvmlEventSet_t, nvmlFieldValue_st,
    nvmlGpuFabricInfo_t, nvmlGpuInstance_t, nvmlGpuInstanceInfo_st, nvmlGpuInstancePlacement_st,
    nvmlGpuInstanceProfileInfo_st, nvmlMemory_st, nvmlMemory_v2_st, nvmlPciInfo_st, nvmlReturn_t, nvmlValue_st,
};

use super::error::{CallError, code};

/// A loaded and initialised library; dropping it shuts NVML down and unloads it.
pub(super) struct Library {
    raw: NvmlLib,
    initialised: bool,
    stale: AtomicBool,
}

/// A card or a MIG instance. Valid as long as the [`Library`] it came from: whoever keeps one keeps that beside it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Device(nvmlDevice_t);

// SAFETY: an opaque name which we never look into; NVML's functions may be called from any thread.
unsafe impl Send for Device {}

/// A set of cards whose events are waited for. Freed by [`Library::free_event_set`].
#[derive(Debug)]
pub(super) struct EventSet(nvmlEventSet_t);

// SAFETY: as for `Device`.
unsafe impl Send for EventSet {}

/// Where a card sits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PciAddress {
    pub(super) domain: u32,
    pub(super) bus: u32,
    pub(super) device: u32,
}

/// Of one GPU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Placement {
    pub(super) profile: u32,
    pub(super) start: u32,
    pub(super) size: u32,
}

/// A card's place in a fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Fabric {
    pub(super) cluster: [u8; 16],
    pub(super) clique: u32,
    pub(super) status: u32,
    pub(super) state: u8,
}

/// What an event set tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Happening {
    pub(super) device: Device,
    pub(super) kind: u64,
    pub(super) data: u64,
    pub(super) gpu_instance: Option<u32>,
    pub(super) compute_instance: Option<u32>,
}

/// Bytes of a card or a MIG instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct MemoryInUse {
    pub(super) total: u64,
    pub(super) used: u64,
    pub(super) free: u64,
}

/// The state of memory rows that were replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RemappedRows {
    pub(super) pending: bool,
    pub(super) failed: bool,
}

/// Calls one function and names it in the error.
macro_rules! call {
    ($library:expr, $function:ident $(, $argument:expr)* $(,)?) => {
        match &$library.raw.$function {
            Err(error) => Err(CallError::missing(stringify!($function), error)),
            Ok(function) => {
                // SAFETY: the signature is generated from NVML's header. Pointers are to live locals of the type and size which
                // that function writes; handles are from this very library, which is loaded as long as `$library` lives.
                let answer = unsafe { function($($argument),*) };
                $library.judge(stringify!($function), answer)
            }
        }
    };
}

mod usage;

pub(super) use usage::{Clock, Listed, Listing};

impl CallError {
    fn missing(call: &'static str, error: &impl std::fmt::Display) -> Self {
        Self { call, code: None, reason: format!("the driver's library does not have it ({error})") }
    }
}

/// The library.
impl Library {
    /// Loads a library; NVML is not initialised yet.
    ///
    /// # Errors
    /// The dynamic linker's words.
    pub(super) fn load(file: &OsStr) -> Result<Self, String> {
        // SAFETY: loading runs the library's initialisers. It is the driver's own, where the driver or the administrator put it.
        let raw = unsafe { NvmlLib::new(file) }.map_err(|error| error.to_string())?;
        Ok(Self { raw, initialised: false, stale: AtomicBool::new(false) })
    }

    pub(super) fn initialise(&mut self) -> Result<(), CallError> {
        call!(self, nvmlInit_v2)?;
        self.initialised = true;
        Ok(())
    }

    /// Whether a call answered that NVML is not initialised or that the driver beneath it has gone or changed: nothing works
    /// until it is loaded again.
    pub(super) fn is_stale(&self) -> bool {
        self.stale.load(Ordering::Relaxed)
    }

    fn judge(&self, call: &'static str, answer: nvmlReturn_t) -> Result<(), CallError> {
        if answer == code::SUCCESS {
            return Ok(());
        }
        if matches!(answer, code::UNINITIALIZED | code::DRIVER_NOT_LOADED | code::LIB_RM_VERSION_MISMATCH) {
            self.stale.store(true, Ordering::Relaxed);
        }
        Err(CallError { call, code: Some(answer), reason: self.words(answer) })
    }

    fn words(&self, answer: nvmlReturn_t) -> String {
        let Ok(function) = &self.raw.nvmlErrorString else { return format!("NVML error {answer}") };
        // SAFETY: takes any number; the text is part of the library.
        let text = unsafe { function(answer) };
        if text.is_null() {
            return format!("NVML error {answer}");
        }
        // SAFETY: NVML's texts end with NUL, and the library stays loaded while `self` lives.
        format!("{} (NVML error {answer})", unsafe { CStr::from_ptr(text) }.to_string_lossy())
    }

    pub(super) fn driver_version(&self) -> Result<String, CallError> {
        text(|buffer, length| call!(self, nvmlSystemGetDriverVersion, buffer, length))
    }

    /// For example 12040 for CUDA 12.4.
    pub(super) fn cuda_version(&self) -> Result<i32, CallError> {
        let mut version = 0;
        call!(self, nvmlSystemGetCudaDriverVersion_v2, &raw mut version)
            .or_else(|_| call!(self, nvmlSystemGetCudaDriverVersion, &raw mut version))?;
        Ok(version)
    }

    pub(super) fn count(&self) -> Result<u32, CallError> {
        let mut count = 0;
        call!(self, nvmlDeviceGetCount_v2, &raw mut count)?;
        Ok(count)
    }
}

/// One card.
impl Library {
    pub(super) fn device(&self, index: u32) -> Result<Device, CallError> {
        let mut device = std::ptr::null_mut();
        call!(self, nvmlDeviceGetHandleByIndex_v2, index, &raw mut device)?;
        Ok(Device(device))
    }

    pub(super) fn uuid(&self, device: Device) -> Result<String, CallError> {
        text(|buffer, length| call!(self, nvmlDeviceGetUUID, device.0, buffer, length))
    }

    pub(super) fn name(&self, device: Device) -> Result<String, CallError> {
        text(|buffer, length| call!(self, nvmlDeviceGetName, device.0, buffer, length))
    }

    pub(super) fn minor(&self, device: Device) -> Result<u32, CallError> {
        let mut minor = 0;
        call!(self, nvmlDeviceGetMinorNumber, device.0, &raw mut minor)?;
        Ok(minor)
    }

    pub(super) fn compute(&self, device: Device) -> Result<(i32, i32), CallError> {
        let (mut major, mut minor) = (0, 0);
        call!(self, nvmlDeviceGetCudaComputeCapability, device.0, &raw mut major, &raw mut minor)?;
        Ok((major, minor))
    }

    pub(super) fn pci(&self, device: Device) -> Result<PciAddress, CallError> {
        let mut pci = empty_pci();
        call!(self, nvmlDeviceGetPciInfo_v3, device.0, &raw mut pci)?;
        Ok(PciAddress { domain: pci.domain, bus: pci.bus, device: pci.device })
    }

    /// Total memory in bytes.
    pub(super) fn memory(&self, device: Device) -> Result<u64, CallError> {
        Ok(self.memory_in_use(device)?.total)
    }

    /// Memory in bytes. The second version is missing from drivers before 510; the first counts the driver's own as used.
    pub(super) fn memory_in_use(&self, device: Device) -> Result<MemoryInUse, CallError> {
        let mut memory =
            nvmlMemory_v2_st { version: version_of::<nvmlMemory_v2_st>(2), total: 0, reserved: 0, free: 0, used: 0 };
        match call!(self, nvmlDeviceGetMemoryInfo_v2, device.0, &raw mut memory) {
            Ok(()) => Ok(MemoryInUse { total: memory.total, used: memory.used, free: memory.free }),
            Err(error) if error.is_unsupported() => {
                let mut memory = nvmlMemory_st { total: 0, free: 0, used: 0 };
                call!(self, nvmlDeviceGetMemoryInfo, device.0, &raw mut memory)?;
                Ok(MemoryInUse { total: memory.total, used: memory.used, free: memory.free })
            }
            Err(error) => Err(error),
        }
    }

    /// NVML's `nvmlGpuTopologyLevel_t`.
    pub(super) fn common_ancestor(&self, one: Device, other: Device) -> Result<u32, CallError> {
        let mut level = 0;
        call!(self, nvmlDeviceGetTopologyCommonAncestor, one.0, other.0, &raw mut level)?;
        Ok(level)
    }

    pub(super) fn link_is_active(&self, device: Device, link: u32) -> Result<bool, CallError> {
        let mut state = 0;
        call!(self, nvmlDeviceGetNvLinkState, device.0, link, &raw mut state)?;
        Ok(state == 1)
    }

    /// NVML's `nvmlIntNvLinkDeviceType_t`.
    pub(super) fn link_remote_type(&self, device: Device, link: u32) -> Result<u32, CallError> {
        let mut kind = 0;
        call!(self, nvmlDeviceGetNvLinkRemoteDeviceType, device.0, link, &raw mut kind)?;
        Ok(kind)
    }

    pub(super) fn link_remote_pci(&self, device: Device, link: u32) -> Result<PciAddress, CallError> {
        let mut pci = empty_pci();
        call!(self, nvmlDeviceGetNvLinkRemotePciInfo_v2, device.0, link, &raw mut pci)?;
        Ok(PciAddress { domain: pci.domain, bus: pci.bus, device: pci.device })
    }

    pub(super) fn fabric(&self, device: Device) -> Result<Fabric, CallError> {
        let mut info = nvmlGpuFabricInfo_t { clusterUuid: [0; 16], status: 0, cliqueId: 0, state: 0 };
        call!(self, nvmlDeviceGetGpuFabricInfo, device.0, &raw mut info)?;
        Ok(Fabric { cluster: info.clusterUuid, clique: info.cliqueId, status: info.status, state: info.state })
    }
}

/// MIG.
impl Library {
    /// Whether MIG mode is in force; what is pending until the next reset is not asked for.
    pub(super) fn mig_mode(&self, device: Device) -> Result<bool, CallError> {
        let (mut current, mut pending) = (0, 0);
        call!(self, nvmlDeviceGetMigMode, device.0, &raw mut current, &raw mut pending)?;
        Ok(current == 1)
    }

    pub(super) fn max_instances(&self, device: Device) -> Result<u32, CallError> {
        let mut count = 0;
        call!(self, nvmlDeviceGetMaxMigDeviceCount, device.0, &raw mut count)?;
        Ok(count)
    }

    /// The indices have holes: `NOT_FOUND` says that there is none of that index.
    pub(super) fn instance(&self, device: Device, index: u32) -> Result<Device, CallError> {
        let mut instance = std::ptr::null_mut();
        call!(self, nvmlDeviceGetMigDeviceHandleByIndex, device.0, index, &raw mut instance)?;
        Ok(Device(instance))
    }

    pub(super) fn gpu_instance(&self, instance: Device) -> Result<u32, CallError> {
        let mut id = 0;
        call!(self, nvmlDeviceGetGpuInstanceId, instance.0, &raw mut id)?;
        Ok(id)
    }

    pub(super) fn compute_instance(&self, instance: Device) -> Result<u32, CallError> {
        let mut id = 0;
        call!(self, nvmlDeviceGetComputeInstanceId, instance.0, &raw mut id)?;
        Ok(id)
    }

    pub(super) fn attributes(&self, instance: Device) -> Result<nvmlDeviceAttributes_st, CallError> {
        let mut attributes = nvmlDeviceAttributes_st {
            multiprocessorCount: 0,
            sharedCopyEngineCount: 0,
            sharedDecoderCount: 0,
            sharedEncoderCount: 0,
            sharedJpegCount: 0,
            sharedOfaCount: 0,
            gpuInstanceSliceCount: 0,
            computeInstanceSliceCount: 0,
            memorySizeMB: 0,
        };
        call!(self, nvmlDeviceGetAttributes_v2, instance.0, &raw mut attributes)?;
        Ok(attributes)
    }

    /// Where a GPU instance lies on its card. NVML lets root alone ask.
    pub(super) fn placement(&self, card: Device, gpu_instance: u32) -> Result<Placement, CallError> {
        let mut handle: nvmlGpuInstance_t = std::ptr::null_mut();
        call!(self, nvmlDeviceGetGpuInstanceById, card.0, gpu_instance, &raw mut handle)?;
        let placement = nvmlGpuInstancePlacement_st { start: 0, size: 0 };
        let mut info = nvmlGpuInstanceInfo_st { device: card.0, id: 0, profileId: 0, placement };
        call!(self, nvmlGpuInstanceGetInfo, handle, &raw mut info)?;
        Ok(Placement { profile: info.profileId, start: info.placement.start, size: info.placement.size })
    }

    /// The number by which this card knows one of NVML's GPU instance profiles.
    pub(super) fn profile_id(&self, card: Device, profile: u32) -> Result<u32, CallError> {
        let mut info = nvmlGpuInstanceProfileInfo_st {
            id: 0,
            isP2pSupported: 0,
            sliceCount: 0,
            instanceCount: 0,
            multiprocessorCount: 0,
            copyEngineCount: 0,
            decoderCount: 0,
            encoderCount: 0,
            jpegCount: 0,
            ofaCount: 0,
            memorySizeMB: 0,
        };
        call!(self, nvmlDeviceGetGpuInstanceProfileInfo, card.0, profile, &raw mut info)?;
        Ok(info.id)
    }
}

/// Health.
impl Library {
    /// What the driver says must be done with the card, NVML's `nvmlDeviceGpuRecoveryAction_t`; unsupported before driver 570.
    pub(super) fn recovery_action(&self, device: Device) -> Result<u32, CallError> {
        let mut field = nvmlFieldValue_st {
            fieldId: NVML_FI_DEV_GET_GPU_RECOVERY_ACTION,
            scopeId: 0,
            timestamp: 0,
            latencyUsec: 0,
            valueType: 0,
            nvmlReturn: code::NOT_SUPPORTED,
            value: nvmlValue_st { ullVal: 0 },
        };
        call!(self, nvmlDeviceGetFieldValues, device.0, 1, &raw mut field)?;
        self.judge("nvmlDeviceGetFieldValues", field.nvmlReturn)?;
        // SAFETY: any bit pattern is a number. We wrote all eight bytes, NVML the first four or all.
        Ok(unsafe { field.value.uiVal })
    }

    pub(super) fn remapped_rows(&self, device: Device) -> Result<RemappedRows, CallError> {
        let (mut corrected, mut uncorrected, mut pending, mut failed) = (0, 0, 0, 0);
        call!(
            self,
            nvmlDeviceGetRemappedRows,
            device.0,
            &raw mut corrected,
            &raw mut uncorrected,
            &raw mut pending,
            &raw mut failed
        )?;
        Ok(RemappedRows { pending: pending != 0, failed: failed != 0 })
    }

    /// Whether memory pages wait for a reset to be retired, on cards before Ampere.
    pub(super) fn retirement_is_pending(&self, device: Device) -> Result<bool, CallError> {
        let mut pending = 0;
        call!(self, nvmlDeviceGetRetiredPagesPendingStatus, device.0, &raw mut pending)?;
        Ok(pending != 0)
    }

    pub(super) fn supported_events(&self, device: Device) -> Result<u64, CallError> {
        let mut kinds = 0;
        call!(self, nvmlDeviceGetSupportedEventTypes, device.0, &raw mut kinds)?;
        Ok(kinds)
    }

    pub(super) fn event_set(&self) -> Result<EventSet, CallError> {
        let mut set = std::ptr::null_mut();
        call!(self, nvmlEventSetCreate, &raw mut set)?;
        Ok(EventSet(set))
    }

    #[expect(clippy::needless_pass_by_value, reason = "nobody may use it afterwards")]
    pub(super) fn free_event_set(&self, set: EventSet) -> Result<(), CallError> {
        call!(self, nvmlEventSetFree, set.0)
    }

    pub(super) fn register(&self, device: Device, kinds: u64, set: &EventSet) -> Result<(), CallError> {
        call!(self, nvmlDeviceRegisterEvents, device.0, kinds, set.0)
    }

    /// The next event; `None` where none came in time.
    pub(super) fn wait(&self, set: &EventSet, timeout: Duration) -> Result<Option<Happening>, CallError> {
        let mut data = nvmlEventData_st {
            device: std::ptr::null_mut(),
            eventType: 0,
            eventData: 0,
            gpuInstanceId: NO_INSTANCE,
            computeInstanceId: NO_INSTANCE,
        };
        let milliseconds = u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX);
        match call!(self, nvmlEventSetWait_v2, set.0, &raw mut data, milliseconds) {
            Ok(()) => Ok(Some(Happening {
                device: Device(data.device),
                kind: data.eventType,
                data: data.eventData,
                gpu_instance: (data.gpuInstanceId != NO_INSTANCE).then_some(data.gpuInstanceId),
                compute_instance: (data.computeInstanceId != NO_INSTANCE).then_some(data.computeInstanceId),
            })),
            Err(error) if error.is(code::TIMEOUT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// What NVML writes where an event is not of an instance.
const NO_INSTANCE: u32 = u32::MAX;

impl Drop for Library {
    fn drop(&mut self) {
        if self.initialised {
            // An error here means that there is nothing left to shut down.
            let _ = call!(self, nvmlShutdown);
        }
    }
}

impl std::fmt::Debug for Library {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Library")
            .field("initialised", &self.initialised)
            .field("stale", &self.stale)
            .finish_non_exhaustive()
    }
}

/// Reads a text into a buffer of the size that NVML's header promises to be enough, and into larger ones where it is not.
fn text(fill: impl Fn(*mut c_char, c_uint) -> Result<(), CallError>) -> Result<String, CallError> {
    let mut length: c_uint = 96;
    loop {
        let mut buffer: Vec<c_char> = vec![0; length as usize];
        match fill(buffer.as_mut_ptr(), length) {
            Err(error) if error.is(code::INSUFFICIENT_SIZE) && length < 4096 => length *= 4,
            Err(error) => return Err(error),
            Ok(()) => {
                let bytes: Vec<u8> =
                    buffer.iter().flat_map(|c| c.to_ne_bytes()).take_while(|byte| *byte != 0).collect();
                return Ok(String::from_utf8_lossy(&bytes).into_owned());
            }
        }
    }
}

/// By which NVML knows a structure's layout: its size, and the version in the highest byte.
fn version_of<T>(version: u32) -> u32 {
    // Structures are tens of bytes.
    size_of::<T>() as u32 | (version << 24)
}

fn empty_pci() -> nvmlPciInfo_st {
    nvmlPciInfo_st {
        busIdLegacy: [0; 16],
        domain: 0,
        bus: 0,
        device: 0,
        pciDeviceId: 0,
        pciSubSystemId: 0,
        busId: [0; 32],
    }
}
