//! What a card tells of itself.

use std::ffi::{c_char, c_int, c_uint};

use super::*;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetHandleByIndex_v2(index: c_uint, device: *mut Handle) -> Answer {
    finish(begin("nvmlDeviceGetHandleByIndex_v2").and_then(|script| {
        if u64::from(index) >= script.number("cards").unwrap() {
            return Err(INVALID_ARGUMENT);
        }
        let card = index as usize;
        about("nvmlDeviceGetHandleByIndex_v2", handle(card, None), false)?;
        write(device, handle(card, None));
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetUUID(device: Handle, text: *mut c_char, length: c_uint) -> Answer {
    finish(
        about("nvmlDeviceGetUUID", device, true)
            .and_then(|(s, it)| write_text(text, length, &it.property(&s, "uuid")?)),
    )
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetName(device: Handle, text: *mut c_char, length: c_uint) -> Answer {
    finish(
        about("nvmlDeviceGetName", device, true)
            .and_then(|(s, it)| write_text(text, length, &it.property(&s, "name")?)),
    )
}

/// Calls that answer one number.
macro_rules! number {
    ($($call:ident $key:literal $kind:ty;)*) => {$(
        #[unsafe(no_mangle)]
        extern "C" fn $call(device: Handle, value: *mut $kind) -> Answer {
            finish(about(stringify!($call), device, false).and_then(|(s, it)| {
                write(value, it.number(&s, $key)? as $kind);
                Ok(())
            }))
        }
    )*};
}

number! {
    nvmlDeviceGetMinorNumber "minor" c_uint;
    nvmlDeviceGetMaxMigDeviceCount "instances" c_uint;
    nvmlDeviceGetGpuInstanceId "gi" c_uint;
    nvmlDeviceGetComputeInstanceId "ci" c_uint;
    nvmlDeviceGetSupportedEventTypes "events" u64;
    nvmlDeviceGetRetiredPagesPendingStatus "retirement" c_uint;
    nvmlDeviceGetPowerUsage "power" c_uint;
    nvmlDeviceGetEnforcedPowerLimit "limit" c_uint;
    nvmlDeviceGetTotalEnergyConsumption "energy" u64;
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetCudaComputeCapability(device: Handle, major: *mut c_int, minor: *mut c_int) -> Answer {
    finish(about("nvmlDeviceGetCudaComputeCapability", device, false).and_then(|(s, it)| {
        let compute = it.property(&s, "compute")?;
        let (a, b) = compute.split_once('.').unwrap();
        write(major, a.parse().unwrap());
        write(minor, b.parse().unwrap());
        Ok(())
    }))
}

#[repr(C)]
struct MemoryV1 {
    total: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo(device: Handle, memory: *mut MemoryV1) -> Answer {
    finish(about("nvmlDeviceGetMemoryInfo", device, false).and_then(|(s, it)| {
        let total = it.number(&s, "memory")?;
        let used = it.number(&s, "used").unwrap_or(0);
        write(memory, MemoryV1 { total, free: total - used, used });
        Ok(())
    }))
}

#[repr(C)]
struct MemoryV2 {
    version: c_uint,
    total: u64,
    reserved: u64,
    free: u64,
    used: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMemoryInfo_v2(device: Handle, memory: *mut MemoryV2) -> Answer {
    finish(about("nvmlDeviceGetMemoryInfo_v2", device, false).and_then(|(s, it)| {
        let version = unsafe { (*memory).version };
        if version != 0x0200_0028 {
            return Err(ARGUMENT_VERSION_MISMATCH);
        }
        let total = it.number(&s, "memory")?;
        let used = it.number(&s, "used").unwrap_or(0);
        write(memory, MemoryV2 { version, total, reserved: 1 << 28, free: total - (1 << 28) - used, used });
        Ok(())
    }))
}

#[repr(C)]
pub(crate) struct Pci {
    legacy: [c_char; 16],
    domain: c_uint,
    bus: c_uint,
    device: c_uint,
    id: c_uint,
    subsystem: c_uint,
    text: [c_char; 32],
}

/// `domain:bus:device` in hexadecimal.
pub(crate) fn write_pci(place: *mut Pci, text: &str) -> Result<(), Answer> {
    let parts: Vec<u32> = text.split(':').map(|part| u32::from_str_radix(part, 16).unwrap()).collect();
    let (domain, bus, device) = (parts[0], parts[1], parts[2]);
    let mut pci = Pci { legacy: [0; 16], domain, bus, device, id: 0x2330_10de, subsystem: 0, text: [0; 32] };
    write_text(pci.legacy.as_mut_ptr(), 16, &format!("{:04X}:{bus:02X}:{device:02X}.0", domain & 0xffff))?;
    write_text(pci.text.as_mut_ptr(), 32, &format!("{domain:08X}:{bus:02X}:{device:02X}.0"))?;
    write(place, pci);
    Ok(())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetPciInfo_v3(device: Handle, pci: *mut Pci) -> Answer {
    finish(about("nvmlDeviceGetPciInfo_v3", device, true).and_then(|(s, it)| write_pci(pci, &it.property(&s, "pci")?)))
}
