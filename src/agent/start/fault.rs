//! Why a container may not start: a fixed set of reasons, for metrics, each with words for the pod's author.

use super::Refusal;

/// One of a fixed set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// The kubelet named no slots.
    NoSlots,
    /// The kubelet's checkpoint or its `PodResources` cannot be read.
    Unreadable,
    /// The two disagree.
    Disagreement,
    /// No container holds exactly these slots.
    Unclaimed,
    /// The pod had to be asked for and the API server did not answer.
    ApiServer,
    /// The pod is gone, or another of the same name has taken its place.
    Gone,
    /// It is bound to another node.
    OtherNode,
    /// It has ended.
    Ended,
    /// The agent does not know the node's devices yet, or no longer.
    NoDevices,
    /// It came around Packhorse.
    Foreign,
    /// It came around Packhorse, and there is no free device for it.
    NoFreeDevice,
    /// It came around Packhorse, and this node's runtime cannot be told of its devices.
    NoCdi,
    /// It has an allocation without our mark.
    Forged,
    /// It has none.
    NoAllocation,
    /// It cannot be read, or contradicts the pod.
    DamagedAllocation,
    /// What the pod asks for cannot be read.
    DamagedRequest,
    /// The allocation gives the container nothing, or another number of devices than the kubelet gave slots.
    Count,
    /// A device is not on this node.
    UnknownDevice,
    /// A device belongs to another resource.
    Resource,
    /// A device is not fit for work.
    Health,
    /// An amount is not what the pod asked for, or more than the device has.
    Amount,
    /// The level of enforcement that the pod requires is not given.
    Enforcement,
    /// Another live pod holds the share.
    Conflict,
    /// Whether another pod that holds the share is alive could not be told.
    Unconfirmed,
    /// The pin cannot be written.
    State,
    /// The specification cannot be written.
    Specification,
    /// The inventory could not be published first.
    Publication,
    /// It took too long.
    Deadline,
}

impl Reason {
    /// The label in metrics.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoSlots => "no_slots",
            Self::Unreadable => "unreadable",
            Self::Disagreement => "disagreement",
            Self::Unclaimed => "unclaimed",
            Self::ApiServer => "api_server",
            Self::Gone => "gone",
            Self::OtherNode => "other_node",
            Self::Ended => "ended",
            Self::NoDevices => "no_devices",
            Self::Foreign => "foreign",
            Self::NoFreeDevice => "no_free_device",
            Self::NoCdi => "no_cdi",
            Self::Forged => "forged",
            Self::NoAllocation => "no_allocation",
            Self::DamagedAllocation => "damaged_allocation",
            Self::DamagedRequest => "damaged_request",
            Self::Count => "count",
            Self::UnknownDevice => "unknown_device",
            Self::Resource => "resource",
            Self::Health => "health",
            Self::Amount => "amount",
            Self::Enforcement => "enforcement",
            Self::Conflict => "conflict",
            Self::Unconfirmed => "unconfirmed",
            Self::State => "state",
            Self::Specification => "specification",
            Self::Publication => "publication",
            Self::Deadline => "deadline",
        }
    }

    /// Whether trying again will not help, so that the world is told and the pod can be moved. What lies with the kubelet's
    /// records, the API server or time does not last; a disk or a host's specification waits for a person.
    pub fn lasts(self) -> bool {
        match self {
            Self::Foreign
            | Self::NoFreeDevice
            | Self::NoCdi
            | Self::Forged
            | Self::NoAllocation
            | Self::DamagedAllocation
            | Self::DamagedRequest
            | Self::Count
            | Self::UnknownDevice
            | Self::Resource
            | Self::Health
            | Self::Amount
            | Self::Enforcement
            | Self::Conflict
            | Self::State
            | Self::Specification => true,
            Self::NoSlots
            | Self::Unreadable
            | Self::Disagreement
            | Self::Unclaimed
            | Self::ApiServer
            | Self::Gone
            | Self::OtherNode
            | Self::Ended
            | Self::NoDevices
            | Self::Unconfirmed
            | Self::Publication
            | Self::Deadline => false,
        }
    }
}

/// A reason in words: what is wrong with which object, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Fault {
    /// Which of the fixed set.
    pub reason: Reason,
    /// For the pod's author. The same at each try, lest the inventory be written at each.
    pub message: String,
}

impl Fault {
    pub(super) fn new(reason: Reason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into() }
    }
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        Self(fault.message)
    }
}
