//! XDP features of an interface's driver, which the kernel reports since Linux 6.3 (generic netlink family `netdev`,
//! `include/uapi/linux/netdev.h`). Some drivers change them when programs are attached or detached.
//!
//! ```text
//!  nlmsghdr (16 bytes) | genlmsghdr: command, version, 0, 0 | attributes: length, type, value padded to 4 bytes
//! ```

use std::io;

use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_GENERIC};

const GENL_ID_CTRL: u16 = 16;
const CTRL_CMD_GETFAMILY: u8 = 3;
const CTRL_ATTR_FAMILY_ID: u16 = 1;
const CTRL_ATTR_FAMILY_NAME: u16 = 2;
const NETDEV_CMD_DEV_GET: u8 = 1;
const NETDEV_A_DEV_IFINDEX: u16 = 1;
const NETDEV_A_DEV_XDP_FEATURES: u16 = 3;
const NLM_F_REQUEST: u16 = 1;
const NLMSG_ERROR: u16 = 2;
const HEADER: usize = 16 + 4;

/// XDP features of an interface's driver (`enum netdev_xdp_act`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures(u64);

impl XdpFeatures {
    /// Whether it runs programs natively (`NETDEV_XDP_ACT_BASIC`).
    #[must_use]
    pub const fn runs_programs(self) -> bool {
        self.0 & 1 != 0
    }

    /// Whether it takes frames that were redirected to it (`NETDEV_XDP_ACT_NDO_XMIT`).
    #[must_use]
    pub const fn takes_redirected(self) -> bool {
        self.0 & 4 != 0
    }
}

/// A socket to query features.
#[derive(Debug)]
pub struct XdpFeatureSocket {
    socket: Socket,
    family: u16,
}

impl XdpFeatureSocket {
    /// Opens the socket in the network namespace of the calling thread; `None` where the kernel is older than 6.3.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn open() -> io::Result<Option<Self>> {
        let mut socket = Socket::new(NETLINK_GENERIC)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        let name = attribute(CTRL_ATTR_FAMILY_NAME, b"netdev\0");
        let answer = match exchange(&socket, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, &name) {
            Ok(answer) => answer,
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Ok(None),
            Err(error) => return Err(error),
        };
        let family = find(&answer, CTRL_ATTR_FAMILY_ID)
            .and_then(|value| value.first_chunk())
            .map(|bytes| u16::from_ne_bytes(*bytes));
        Ok(family.map(|family| Self { socket, family }))
    }

    /// The features of an interface of the socket's namespace.
    ///
    /// # Errors
    /// There is no such interface, or the kernel refused.
    pub fn query(&self, index: u32) -> io::Result<XdpFeatures> {
        let index = attribute(NETDEV_A_DEV_IFINDEX, &index.to_ne_bytes());
        let answer = exchange(&self.socket, self.family, NETDEV_CMD_DEV_GET, &index)?;
        let features = find(&answer, NETDEV_A_DEV_XDP_FEATURES)
            .and_then(|value| value.first_chunk())
            .map(|bytes| u64::from_ne_bytes(*bytes));
        Ok(XdpFeatures(features.unwrap_or_default()))
    }
}

/// Sends one request, and returns the attributes of its only answer.
fn exchange(socket: &Socket, family: u16, command: u8, attributes: &[u8]) -> io::Result<Vec<u8>> {
    let mut message = Vec::with_capacity(HEADER + attributes.len());
    // The attributes that are sent are a few bytes long.
    message.extend(((HEADER + attributes.len()) as u32).to_ne_bytes());
    message.extend(family.to_ne_bytes());
    message.extend(NLM_F_REQUEST.to_ne_bytes());
    message.extend([0; 8]);
    message.extend([command, 1, 0, 0]);
    message.extend(attributes);
    socket.send(&message, 0)?;
    let (answer, _) = socket.recv_from_full()?;
    let kind = answer.get(4..6).map(|bytes| [bytes[0], bytes[1]]);
    if kind == Some(NLMSG_ERROR.to_ne_bytes()) {
        let code = answer.get(16..).and_then(|rest| rest.first_chunk());
        let code = code.map_or(0, |bytes| i32::from_ne_bytes(*bytes));
        return Err(io::Error::from_raw_os_error(code.saturating_neg()));
    }
    Ok(answer.get(HEADER..).unwrap_or_default().to_vec())
}

fn attribute(kind: u16, value: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(4 + value.len());
    bytes.extend((4 + value.len() as u16).to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(value);
    bytes.resize(bytes.len().next_multiple_of(4), 0);
    bytes
}

/// The value of the first attribute of this kind.
fn find(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    while let Some([a, b, c, d]) = attributes.first_chunk::<4>() {
        let length = usize::from(u16::from_ne_bytes([*a, *b]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([*c, *d]) == wanted {
            return Some(value);
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_written_and_found() {
        let mut bytes = attribute(2, b"netdev\0");
        assert_eq!(
            bytes,
            [11, 0, 2, 0, b'n', b'e', b't', b'd', b'e', b'v', 0, 0]
        );
        bytes.extend(attribute(3, &5_u64.to_ne_bytes()));
        assert_eq!(find(&bytes, 3), Some(&5_u64.to_ne_bytes()[..]));
        assert_eq!(find(&bytes, 4), None);
        assert_eq!(find(&[3, 0, 3, 0], 3), None, "shorter than its own header");
        assert_eq!(find(&[200, 0, 3, 0], 3), None, "cut");
    }

    #[test]
    fn a_kernel_that_knows_features_knows_those_of_the_loopback() {
        if let Some(socket) = XdpFeatureSocket::open().unwrap() {
            assert!(!socket.query(1).unwrap().runs_programs());
            assert!(socket.query(u32::MAX >> 1).is_err());
        }
    }
}
