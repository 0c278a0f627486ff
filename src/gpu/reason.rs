//! Why a node cannot take a pod: a small fixed set of texts without numbers or times. kube-scheduler writes them into the pod's
//! status, and a text that varied would make it retry in a loop.

/// Why a node cannot take a pod. `Ord` is the order of precedence where devices of one node fail for different reasons: the
/// last (greatest) is told, being the nearest to a fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Reason {
    /// The node has no inventory.
    NoInventory,
    /// Its inventory cannot be read.
    InventoryDamaged,
    /// Its agent is starting or stopping.
    AgentNotReady,
    /// No device that the pod's constraints accept.
    NoMatchingDevice,
    /// No MIG instance of that profile.
    NoMigProfile,
    /// The card is too small, even empty.
    DeviceTooSmall,
    /// Not as many devices as one container asks for.
    TooFewDevices,
    /// No device keeps a memory limit as well as required.
    EnforcementTooWeak,
    /// Devices on one NUMA node do not suffice.
    NumaSplit,
    /// A foreign pod is on the device.
    DeviceForeign,
    /// An administrator took the device out.
    DeviceCordoned,
    /// The device is not healthy.
    DeviceUnhealthy,
    /// Somebody has the device for themselves, or somebody is on it whom the exclusive request would not accept.
    DeviceExclusive,
    /// All slots are taken.
    SlotsExhausted,
    /// Booked cores leave too little.
    CoresExhausted,
    /// Booked memory leaves too little.
    MemoryExhausted,
    /// Each container fits alone, all of them together do not.
    PodTogether,
    /// The room is promised to a preemptor of higher priority.
    RoomPromised,
}

impl Reason {
    /// All reasons, for documentation and metrics.
    pub const ALL: [Self; 18] = [
        Self::NoInventory,
        Self::InventoryDamaged,
        Self::AgentNotReady,
        Self::NoMatchingDevice,
        Self::NoMigProfile,
        Self::DeviceTooSmall,
        Self::TooFewDevices,
        Self::EnforcementTooWeak,
        Self::NumaSplit,
        Self::DeviceForeign,
        Self::DeviceCordoned,
        Self::DeviceUnhealthy,
        Self::DeviceExclusive,
        Self::SlotsExhausted,
        Self::CoresExhausted,
        Self::MemoryExhausted,
        Self::PodTogether,
        Self::RoomPromised,
    ];

    /// The text users meet in their pod's events.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NoInventory => "no GPU inventory published",
            Self::InventoryDamaged => "GPU inventory cannot be read",
            Self::AgentNotReady => "GPU agent not ready",
            Self::NoMatchingDevice => "no GPU matches the pod's constraints",
            Self::NoMigProfile => "no MIG instance of that profile",
            Self::DeviceTooSmall => "GPU memory smaller than requested",
            Self::TooFewDevices => "fewer GPUs than requested",
            Self::EnforcementTooWeak => "memory limits not enforced as required",
            Self::NumaSplit => "not enough GPUs on one NUMA node",
            Self::DeviceForeign => "GPU used by a foreign pod",
            Self::DeviceCordoned => "GPU cordoned",
            Self::DeviceUnhealthy => "GPU unhealthy",
            Self::DeviceExclusive => "no GPU free for exclusive use",
            Self::SlotsExhausted => "GPU slots exhausted",
            Self::CoresExhausted => "GPU cores exhausted",
            Self::MemoryExhausted => "GPU memory exhausted",
            Self::PodTogether => "containers fit alone but not together",
            Self::RoomPromised => "room promised to a pod of higher priority",
        }
    }

    /// Whether removing pods from the node could help: then a preemption is worth a thought. The rest needs another node, an
    /// administrator, or a repair.
    pub fn is_shortage(self) -> bool {
        matches!(
            self,
            Self::DeviceExclusive
                | Self::SlotsExhausted
                | Self::CoresExhausted
                | Self::MemoryExhausted
                | Self::PodTogether
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_reasons_are_listed_in_order_once() {
        for (at, reason) in Reason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, at, "{reason:?}");
        }
    }

    #[test]
    fn texts_differ_and_never_vary() {
        for reason in Reason::ALL {
            assert!(!reason.as_str().chars().any(|c| c.is_ascii_digit()), "{reason:?}");
            assert_eq!(Reason::ALL.into_iter().filter(|other| other.as_str() == reason.as_str()).count(), 1);
        }
    }
}
