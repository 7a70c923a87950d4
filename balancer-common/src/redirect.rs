//! Redirects that the kernel gave up after the packet program had decided on them.

use crate::plain_data;

/// What a failed redirect is counted under: a key of `REDIRECT_ERRORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
#[repr(C)]
pub struct RedirectError {
    /// Index of the interface that the frame was to leave by.
    pub interface: u32,
    /// The kernel's error number, positive.
    pub errno: u32,
}

const _: () = assert!(size_of::<RedirectError>() == 8);
plain_data!(RedirectError);
