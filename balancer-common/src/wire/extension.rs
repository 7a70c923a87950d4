//! IPv6 extension headers (RFC 8200 section 4).

/// What an extension header means for whoever looks for the transport header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Extension {
    /// It is none that can be looked through: a transport protocol, an encrypted rest, nothing.
    None,
    /// Options, for routers or for the destination.
    Options,
    /// A routing header.
    Routing,
    /// A fragment header.
    Fragment,
}

/// The kind of the header with this next header number.
#[inline(always)]
#[must_use]
pub const fn extension_kind(next_header: u8) -> Extension {
    match next_header {
        0 | 60 => Extension::Options,
        43 => Extension::Routing,
        44 => Extension::Fragment,
        _ => Extension::None,
    }
}

/// The first eight bytes of an extension header, which are all of a fragment header (RFC 8200 sections 4.3 to 4.6).
///
/// ```text
///   options:   next header 8 | length 8 | options
///   routing:   next header 8 | length 8 | type 8 | segments left 8 | data
///   fragment:  next header 8 | reserved 8 | offset 13 | reserved 2 | more 1 | identification 32
/// ```
/// The length counts further eight bytes.
#[derive(Clone, Copy, Debug)]
#[repr(C)]
pub struct ExtensionHeader {
    next_header: u8,
    length: u8,
    offset: [u8; 2],
    identification: [u8; 4],
}

impl ExtensionHeader {
    /// Length in bytes of a fragment header.
    pub const LENGTH: usize = size_of::<Self>();

    /// What follows.
    #[inline(always)]
    #[must_use]
    pub const fn next_header(&self) -> u8 {
        self.next_header
    }

    /// Length in bytes of a header of options, or of a routing header.
    #[inline(always)]
    #[must_use]
    pub const fn length(&self) -> usize {
        (self.length as usize + 1) * 8
    }

    /// A routing header's type.
    #[inline(always)]
    #[must_use]
    pub const fn routing_type(&self) -> u8 {
        self.offset[0]
    }

    /// How many addresses a routing header names that the packet has not been to yet.
    #[inline(always)]
    #[must_use]
    pub const fn segments_left(&self) -> u8 {
        self.offset[1]
    }

    /// A fragment's place in its datagram, in units of eight bytes.
    #[inline(always)]
    #[must_use]
    pub const fn fragment_offset(&self) -> u16 {
        u16::from_be_bytes(self.offset) >> 3
    }

    /// Whether further fragments follow.
    #[inline(always)]
    #[must_use]
    pub const fn has_more(&self) -> bool {
        self.offset[1] & 1 != 0
    }

    /// A fragment's identification, as it lies in the packet.
    #[inline(always)]
    #[must_use]
    pub const fn identification(&self) -> u32 {
        u32::from_ne_bytes(self.identification)
    }
}

const _: () = assert!(align_of::<ExtensionHeader>() == 1 && ExtensionHeader::LENGTH == 8);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_rfc_has_them() {
        let header = ExtensionHeader {
            next_header: 17,
            length: 0,
            offset: [0x05, 0xa9],
            identification: [1, 2, 3, 4],
        };
        assert_eq!((header.next_header(), header.fragment_offset()), (17, 181));
        assert!(header.has_more());
        assert_eq!(header.identification().to_ne_bytes(), [1, 2, 3, 4]);
        let routing = ExtensionHeader {
            length: 2,
            offset: [4, 1],
            ..header
        };
        assert_eq!(routing.length(), 24);
        assert_eq!((routing.routing_type(), routing.segments_left()), (4, 1));
    }

    #[test]
    fn only_what_can_be_looked_through_is_an_extension() {
        let all: Vec<_> = (0..=u8::MAX)
            .filter(|next| extension_kind(*next) != Extension::None)
            .collect();
        // Not among them: AH (51), ESP (50), mobility (135), HIP (139), shim6 (140).
        assert_eq!(all, [0, 43, 44, 60]);
    }
}
