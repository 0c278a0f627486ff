//! Ways between cards, and fabrics.

use std::ffi::c_uint;

use super::cards::{Pci, write_pci};
use super::*;

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetTopologyCommonAncestor(one: Handle, other: Handle, level: *mut c_uint) -> Answer {
    finish(about("nvmlDeviceGetTopologyCommonAncestor", one, false).and_then(|(s, it)| {
        let (_, peer) = about("nvmlDeviceGetTopologyCommonAncestor", other, false)?;
        write(level, it.number(&s, &format!("ancestor.{}", peer.card))? as c_uint);
        Ok(())
    }))
}

/// `set 0 links 18`: so many there are; `set 0 link.3 switch` or a PCI address: where an active one leads.
fn link(call: &str, device: Handle, link: c_uint) -> Result<Option<String>, Answer> {
    let (s, it) = about(call, device, false)?;
    if u64::from(link) >= it.number(&s, "links")? {
        return Err(INVALID_ARGUMENT);
    }
    Ok(it.property(&s, &format!("link.{link}")).ok())
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkState(device: Handle, number: c_uint, active: *mut c_uint) -> Answer {
    finish(link("nvmlDeviceGetNvLinkState", device, number).map(|to| write(active, c_uint::from(to.is_some()))))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemoteDeviceType(device: Handle, number: c_uint, kind: *mut c_uint) -> Answer {
    finish(link("nvmlDeviceGetNvLinkRemoteDeviceType", device, number).and_then(|to| {
        write(kind, if to.ok_or(NOT_SUPPORTED)? == "switch" { 2 } else { 0 });
        Ok(())
    }))
}

#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetNvLinkRemotePciInfo_v2(device: Handle, number: c_uint, pci: *mut Pci) -> Answer {
    finish(link("nvmlDeviceGetNvLinkRemotePciInfo_v2", device, number).and_then(|to| match to.as_deref() {
        None => Err(NOT_SUPPORTED),
        Some("switch") => write_pci(pci, "0:c0:0"),
        Some(address) => write_pci(pci, address),
    }))
}

#[repr(C)]
struct Fabric {
    cluster: [u8; 16],
    status: c_uint,
    clique: c_uint,
    state: u8,
}

/// `set 0 fabric <first byte> <clique> <state>`.
#[unsafe(no_mangle)]
extern "C" fn nvmlDeviceGetGpuFabricInfo(device: Handle, info: *mut Fabric) -> Answer {
    finish(about("nvmlDeviceGetGpuFabricInfo", device, false).and_then(|(s, it)| {
        let fabric = it.property(&s, "fabric")?;
        let parts: Vec<u32> = fabric.split(' ').map(|part| part.parse().unwrap()).collect();
        let mut cluster = [0; 16];
        cluster[0] = parts[0] as u8;
        write(info, Fabric { cluster, status: OK, clique: parts[1], state: parts[2] as u8 });
        Ok(())
    }))
}
