//! Everything that crosses a wire: names, annotation codecs, the wire types of the scheduler extender and of admission, the few
//! calls made to the API server, and the mechanics of a watch. Owns no state. Damaged input becomes an error that names what is damaged.

pub mod admission;
pub mod allocation;
pub mod calls;
pub mod extender;
pub mod fields;
pub mod inventory;
mod list;
pub mod names;
pub mod node;
pub mod pod;
pub mod request;
pub mod watch;
