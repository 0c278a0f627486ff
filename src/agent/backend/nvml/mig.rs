//! Reads the MIG instances of one card. An instance that cannot be read, or that is a part of a GPU instance only, is reported
//! and not published; its neighbours are.
//!
//! An instance is a compute instance within a GPU instance. Only those that take the whole of it are handed out, as NVIDIA's
//! plugin does: parts share the memory of the GPU instance and are not kept apart by the hardware.

use std::sync::Arc;

use super::super::{Instance, InstanceAttributes};
use super::calls::{Device, Library};
use super::error::{CallError, code};
use crate::gpu::request::MigProfile;

/// NVML's `NVML_GPU_INSTANCE_PROFILE_1_SLICE_REV1`: one slice with all media engines.
const ONE_SLICE_WITH_MEDIA: u32 = 7;

/// A MIG device's index with its handle, or why it has none to offer.
type Found = (u32, Result<Device, CallError>);

/// Why an instance is not published.
#[derive(Debug, thiserror::Error)]
enum Unpublished {
    #[error(transparent)]
    Call(#[from] CallError),
    #[error("{0} is a part of a GPU instance; only instances that take the whole of theirs are published")]
    Part(String),
    #[error("its placement {0}+{1} is no placement of memory slices")]
    Placement(u32, u32),
}

/// The instances of a card in MIG mode, by UUID.
///
/// # Errors
/// The card does not tell how many it may have.
pub(super) fn instances(
    library: &Library,
    card: Device,
    card_uuid: &str,
    unreadable: &mut Vec<String>,
) -> Result<Vec<Instance>, CallError> {
    let mut instances = Vec::new();
    for (index, handle) in handles(library, card)? {
        let handle = match handle {
            Ok(handle) => handle,
            Err(error) => {
                unreadable.push(format!("MIG device {index} of {card_uuid}: {error}"));
                continue;
            }
        };
        let uuid = library.uuid(handle);
        let name = uuid.as_ref().map_or_else(|_| format!("MIG device {index}"), Clone::clone);
        match uuid.map_err(Unpublished::from).and_then(|uuid| read(library, card, handle, uuid)) {
            Ok(instance) => instances.push(instance),
            Err(error) => unreadable.push(format!("{name} of {card_uuid}: {error}")),
        }
    }
    instances.sort_by(|one, other| one.uuid.cmp(&other.uuid));
    Ok(instances)
}

/// The UUID of the instance with these numbers; `None` where the card has none now.
pub(super) fn find(
    library: &Library,
    card: Device,
    gpu_instance: u32,
    compute_instance: Option<u32>,
) -> Result<Option<Arc<str>>, CallError> {
    for (_, handle) in handles(library, card)? {
        let handle = handle?;
        if library.gpu_instance(handle)? != gpu_instance {
            continue;
        }
        if compute_instance.is_none() || compute_instance == Some(library.compute_instance(handle)?) {
            return Ok(Some(library.uuid(handle)?.into()));
        }
    }
    Ok(None)
}

/// Every MIG device with its index. An index without one is not an error.
pub(super) fn handles(library: &Library, card: Device) -> Result<Vec<Found>, CallError> {
    let handles = (0..library.max_instances(card)?).map(|index| (index, library.instance(card, index)));
    Ok(handles.filter(|(_, handle)| !handle.as_ref().is_err_and(|error| error.is(code::NOT_FOUND))).collect())
}

fn read(library: &Library, card: Device, handle: Device, uuid: String) -> Result<Instance, Unpublished> {
    let attributes = library.attributes(handle)?;
    let ids = (library.gpu_instance(handle)?, library.compute_instance(handle)?);
    let placement = library.placement(card, ids.0)?;
    let (compute, slices) = (attributes.computeInstanceSliceCount, attributes.gpuInstanceSliceCount);
    let profile = match profile_of_name(&library.name(handle)?) {
        Some(profile) => profile.to_owned(),
        None => {
            let memory = gigabytes(library.memory(card)?, attributes.memorySizeMB);
            // Without a name this one call tells the two profiles of equal shape apart; cards without media engines refuse it.
            let media = slices == 1 && library.profile_id(card, ONE_SLICE_WITH_MEDIA).ok() == Some(placement.profile);
            let part = if compute == slices { String::new() } else { format!("{compute}c.") };
            format!("{part}{slices}g.{memory}gb{}", if media { "+me" } else { "" })
        }
    };
    if compute != slices {
        return Err(Unpublished::Part(profile));
    }
    let number = |value: u32| u8::try_from(value).map_err(|_| Unpublished::Placement(placement.start, placement.size));
    Ok(Instance {
        uuid: uuid.into(),
        profile: MigProfile(profile.into()),
        memory: u32::try_from(attributes.memorySizeMB).unwrap_or(u32::MAX),
        start: number(placement.start)?,
        size: number(placement.size)?,
        ids: Some(ids),
        attributes: Some(InstanceAttributes {
            multiprocessors: attributes.multiprocessorCount,
            gpu_slices: slices,
            compute_slices: compute,
            copy_engines: attributes.sharedCopyEngineCount,
            decoders: attributes.sharedDecoderCount,
            encoders: attributes.sharedEncoderCount,
            jpegs: attributes.sharedJpegCount,
            ofas: attributes.sharedOfaCount,
        }),
    })
}

/// NVML's name of an instance ends with its profile: `NVIDIA A100-SXM4-40GB MIG 1g.5gb`.
fn profile_of_name(name: &str) -> Option<&str> {
    let (before, profile) = name.rsplit_once(' ')?;
    let shaped = profile.starts_with(|c: char| c.is_ascii_digit()) && profile.contains("g.") && profile.contains("gb");
    (before.ends_with("MIG") && shaped).then_some(profile)
}

/// The memory in a profile's name: the card's memory in GB times the instance's share of it in eighths, both rounded up, for
/// the name tells the slices and not what is left of them.
fn gigabytes(card_bytes: u64, instance: u64) -> u64 {
    let card_mebibytes = (card_bytes >> 20).max(1);
    let eighths = (instance * 8).div_ceil(card_mebibytes).min(8);
    let card_gigabytes = card_bytes.div_ceil(1 << 30);
    (eighths * card_gigabytes + 4) / 8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_profile_is_the_end_of_the_name() {
        for (name, expected) in [
            ("NVIDIA A100-SXM4-40GB MIG 1g.5gb", Some("1g.5gb")),
            ("NVIDIA H100 80GB HBM3 MIG 1g.10gb+me", Some("1g.10gb+me")),
            ("NVIDIA A100-SXM4-40GB MIG 1c.3g.20gb", Some("1c.3g.20gb")),
            ("MIG 7g.80gb", Some("7g.80gb")),
            ("NVIDIA A100-SXM4-40GB", None),
            ("NVIDIA MIG", None),
            ("", None),
        ] {
            assert_eq!(profile_of_name(name), expected, "{name}");
        }
    }

    #[test]
    fn memory_in_a_profile_counts_slices() {
        // The sizes that drivers report of real cards, in MiB.
        for (card, instance, expected) in [
            (40_960, 4_864, 5),
            (40_960, 9_856, 10),
            (40_960, 19_968, 20),
            (40_960, 40_192, 40),
            (81_559, 9_728, 10),
            (81_559, 19_968, 20),
            (81_559, 40_320, 40),
            (143_771, 16_384, 18),
            (143_771, 71_680, 71),
        ] {
            assert_eq!(gigabytes(card << 20, instance), expected, "{instance} of {card}");
        }
    }
}
