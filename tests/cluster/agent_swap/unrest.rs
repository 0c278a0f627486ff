//! Ends of the agent and of the kubelet at moments that a seed decides.

use std::time::Duration;

use super::super::agent::Agent;
use super::super::node::Node;

/// Random numbers that are the same in every run (splitmix64).
#[derive(Debug)]
pub(super) struct Chance(pub(super) u64);

/// Who may be struck.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Victims {
    Agent,
    AgentAndKubelet,
}

impl Chance {
    /// From 0 to below `end`.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % end
    }

    async fn pause(&mut self, milliseconds: u64) {
        tokio::time::sleep(Duration::from_millis(self.below(milliseconds))).await;
    }
}

/// After a while ends one of them or both, as a crash or in order, and starts them again after a while.
pub(super) async fn strike(node: &mut Node, agent: &mut Agent, chance: &mut Chance, victims: Victims) {
    chance.pause(2500).await;
    let (agent_ends, kubelet_ends) = match (victims, chance.below(5)) {
        (Victims::Agent, _) | (Victims::AgentAndKubelet, 0 | 1) => (true, false),
        (Victims::AgentAndKubelet, 2 | 3) => (false, true),
        (Victims::AgentAndKubelet, _) => (true, true),
    };
    let in_order = chance.below(2) == 0;
    if kubelet_ends {
        if in_order { node.stop_kubelet().await } else { node.kill_kubelet() }
    }
    if agent_ends {
        if in_order {
            let status = agent.stop().await;
            assert!(status.success(), "the agent ended with {status}");
        } else {
            agent.kill();
        }
    }
    chance.pause(1500).await;
    // Either may be the first to be back.
    if agent_ends {
        agent.run();
    }
    if kubelet_ends {
        node.start_kubelet().await;
    }
}
