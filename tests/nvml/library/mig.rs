//! MIG devices. A GPU instance's handle is that of its MIG device.

use std::ffi::c_uint;

use super::*;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigMode(device: Handle, current: *mut c_uint, pending: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetMigMode", device, false).and_then(|(s, it)| {
        let mode = it.number(&s, "mig")? as c_uint;
        write(current, mode);
        write(pending, mode);
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetMigDeviceHandleByIndex(device: Handle, index: c_uint, instance: *mut Handle) -> Answer {
    finish(about("nvmlDeviceGetMigDeviceHandleByIndex", device, false).and_then(|(s, it)| {
        let found = Subject { instance: Some(index as usize), ..it };
        if u64::from(index) >= it.number(&s, "instances")? {
            return Err(INVALID_ARGUMENT);
        }
        found.property(&s, "uuid").map_err(|_| NOT_FOUND)?;
        let place = handle(it.card, found.instance);
        about("nvmlDeviceGetMigDeviceHandleByIndex", place, false)?;
        write(instance, place);
        Ok(())
    }))
}

#[repr(C)]
struct Attributes {
    /// Multiprocessors, copy engines, decoders, encoders, JPEG, OFA, GPU slices, compute slices.
    numbers: [c_uint; 8],
    memory: u64,
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetAttributes_v2(device: Handle, attributes: *mut Attributes) -> Answer {
    finish(about("nvmlDeviceGetAttributes_v2", device, false).and_then(|(s, it)| {
        let all = it.property(&s, "attributes")?;
        let all: Vec<u32> = all.split(' ').map(|part| part.parse().unwrap()).collect();
        write(attributes, Attributes { numbers: all[..8].try_into().unwrap(), memory: u64::from(all[8]) });
        Ok(())
    }))
}

/// A GPU instance's handle is the MIG device's.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuInstanceById(device: Handle, id: c_uint, instance: *mut Handle) -> Answer {
    finish(about("nvmlDeviceGetGpuInstanceById", device, false).and_then(|(s, it)| {
        for index in 0..it.number(&s, "instances")? as usize {
            let candidate = Subject { instance: Some(index), ..it };
            if candidate.number(&s, "gi") == Ok(u64::from(id)) {
                write(instance, handle(it.card, Some(index)));
                return Ok(());
            }
        }
        Err(NOT_FOUND)
    }))
}

#[repr(C)]
struct InstanceInfo {
    device: Handle,
    id: c_uint,
    profile: c_uint,
    start: c_uint,
    size: c_uint,
}

/// `set 0/1 placement <profile> <start> <size>`.
#[unsafe(no_mangle)]
extern "C" fn nvmlGpuInstanceGetInfo(instance: Handle, info: *mut InstanceInfo) -> Answer {
    finish(about("nvmlGpuInstanceGetInfo", instance, false).and_then(|(s, it)| {
        let placement = it.property(&s, "placement")?;
        let parts: Vec<u32> = placement.split(' ').map(|part| part.parse().unwrap()).collect();
        let id = it.number(&s, "gi")? as c_uint;
        let device = handle(it.card, None);
        write(info, InstanceInfo { device, id, profile: parts[0], start: parts[1], size: parts[2] });
        Ok(())
    }))
}

#[repr(C)]
struct ProfileInfo {
    numbers: [c_uint; 10],
    memory: u64,
}

/// `set 0 profile.7 20`.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuInstanceProfileInfo(device: Handle, profile: c_uint, info: *mut ProfileInfo) -> Answer {
    finish(about("nvmlDeviceGetGpuInstanceProfileInfo", device, false).and_then(|(s, it)| {
        let mut numbers = [0; 10];
        numbers[0] = it.number(&s, &format!("profile.{profile}"))? as c_uint;
        write(info, ProfileInfo { numbers, memory: 0 });
        Ok(())
    }))
}
