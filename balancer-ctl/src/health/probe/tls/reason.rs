//! What is wrong with a TLS connection or a certificate, in sentences for operators. rustls formats most of its errors as the
//! names of its types.

use std::io;

use rustls::{
    AlertDescription, CertificateError, Error, InconsistentKeys, InvalidMessage, PeerIncompatible,
    pki_types::pem,
};

use super::{
    super::{ProbeFailure, text},
    verifier,
};

/// The failure that an error of a TLS stream stands for, in the handshake or later.
pub fn failure(error: &io::Error) -> ProbeFailure {
    match error.get_ref().and_then(|inner| inner.downcast_ref()) {
        None => error.into(),
        Some(error @ (Error::FailedToGetRandomBytes | Error::FailedToGetCurrentTime)) => {
            ProbeFailure::Local(sentence(error))
        }
        Some(error) => sentence(error).into(),
    }
}

/// What an error means.
pub fn sentence(error: &Error) -> String {
    match error {
        Error::InvalidCertificate(error) => return certificate_reason(error),
        Error::AlertReceived(alert) => {
            return format!("tls alert from the server: {}", alert_name(*alert));
        }
        Error::PeerIncompatible(why) => return format!("no common tls: {}", incompatibility(why)),
        // Where rustls uses this, it is a sentence.
        Error::General(sentence) => return text::quoted(sentence.as_bytes()),
        Error::InvalidMessage(
            InvalidMessage::HandshakePayloadTooLarge | InvalidMessage::CertificatePayloadTooLarge,
        ) => "the server's certificate chain is larger than 64 KiB",
        Error::InvalidMessage(_) => "the answer is not tls",
        Error::InappropriateMessage { .. } | Error::InappropriateHandshakeMessage { .. } => {
            "the server sent a tls message out of turn"
        }
        Error::PeerMisbehaved(_) => "the server breaks the rules of tls",
        Error::PeerSentOversizedRecord => "the server sent a tls record that is too large",
        Error::DecryptError => "what the server sent cannot be decrypted",
        Error::NoCertificatesPresented => "the server shows no certificate",
        Error::NoApplicationProtocol => "the server does not offer the http version",
        Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
            "the key is of another certificate"
        }
        Error::FailedToGetRandomBytes => "this host has no random bytes",
        Error::FailedToGetCurrentTime => "this host's clock cannot be read",
        _ => "tls failed",
    }
    .to_owned()
}

/// What is wrong with a file of certificates or keys.
pub const fn pem_sentence(error: &pem::Error) -> &'static str {
    match error {
        pem::Error::MissingSectionEnd { .. } => "the file ends before its END line",
        pem::Error::IllegalSectionStart { .. } => "one of its BEGIN lines is not whole",
        pem::Error::Base64Decode(_) => "what is between BEGIN and END is not base64",
        pem::Error::SectionTooLarge => "what is between BEGIN and END is too large",
        _ => "it is not PEM",
    }
}

fn incompatibility(why: &PeerIncompatible) -> &'static str {
    match why {
        PeerIncompatible::ServerDoesNotSupportTls12Or13
        | PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
        | PeerIncompatible::SupportedVersionsExtensionRequired => {
            "the server speaks neither tls 1.2 nor 1.3"
        }
        PeerIncompatible::NoCipherSuitesInCommon => "no cipher suite of the server is known",
        PeerIncompatible::NoKxGroupsInCommon
        | PeerIncompatible::KeyShareExtensionRequired
        | PeerIncompatible::NamedGroupsExtensionRequired
        | PeerIncompatible::NoEcPointFormatsInCommon
        | PeerIncompatible::UncompressedEcPointsRequired => {
            "no key exchange of the server is known"
        }
        PeerIncompatible::NoSignatureSchemesInCommon
        | PeerIncompatible::NoCertificateRequestSignatureSchemesInCommon
        | PeerIncompatible::SignatureAlgorithmsExtensionRequired => {
            "no signature algorithm of the server is known"
        }
        _ => "the server wants or lacks an extension",
    }
}

/// An alert's name as in RFC 8446, section 6, in words.
fn alert_name(alert: AlertDescription) -> String {
    use AlertDescription as Alert;
    match alert {
        Alert::CloseNotify => "close notify",
        Alert::UnexpectedMessage => "unexpected message",
        Alert::BadRecordMac => "bad record mac",
        Alert::DecryptionFailed => "decryption failed",
        Alert::RecordOverflow => "record overflow",
        Alert::DecompressionFailure => "decompression failure",
        Alert::HandshakeFailure => "handshake failure",
        Alert::NoCertificate => "no certificate",
        Alert::BadCertificate => "bad certificate",
        Alert::UnsupportedCertificate => "unsupported certificate",
        Alert::CertificateRevoked => "certificate revoked",
        Alert::CertificateExpired => "certificate expired",
        Alert::CertificateUnknown => "certificate unknown",
        Alert::IllegalParameter => "illegal parameter",
        Alert::UnknownCA => "unknown ca",
        Alert::AccessDenied => "access denied",
        Alert::DecodeError => "decode error",
        Alert::DecryptError => "decrypt error",
        Alert::ExportRestriction => "export restriction",
        Alert::ProtocolVersion => "protocol version",
        Alert::InsufficientSecurity => "insufficient security",
        Alert::InternalError => "internal error",
        Alert::InappropriateFallback => "inappropriate fallback",
        Alert::UserCanceled => "user canceled",
        Alert::NoRenegotiation => "no renegotiation",
        Alert::MissingExtension => "missing extension",
        Alert::UnsupportedExtension => "unsupported extension",
        Alert::CertificateUnobtainable => "certificate unobtainable",
        Alert::UnrecognisedName => "unrecognized name",
        Alert::BadCertificateStatusResponse => "bad certificate status response",
        Alert::BadCertificateHashValue => "bad certificate hash value",
        Alert::UnknownPSKIdentity => "unknown psk identity",
        Alert::CertificateRequired => "certificate required",
        Alert::NoApplicationProtocol => "no application protocol",
        Alert::EncryptedClientHelloRequired => "encrypted client hello required",
        other => return format!("number {}", u8::from(other)),
    }
    .to_owned()
}

fn certificate_reason(error: &CertificateError) -> String {
    match error {
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            return format!(
                "certificate is for {}, not {}",
                names(presented),
                expected.to_str()
            );
        }
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "certificate expired"
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "certificate is not valid yet"
        }
        CertificateError::NotValidForName => "certificate is for another name",
        CertificateError::UnknownIssuer => "certificate is of an unknown issuer",
        CertificateError::Revoked => "certificate is revoked",
        CertificateError::BadEncoding => "certificate cannot be read",
        CertificateError::UnhandledCriticalExtension => {
            "certificate has a critical extension that is not known"
        }
        // What ring says of a short RSA key, too.
        CertificateError::BadSignature => {
            "certificate: a signature is wrong, or of an RSA key of less than 2048 bits"
        }
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "certificate is of a kind of key or signature that is not known"
        }
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "certificate is not for servers"
        }
        CertificateError::Other(other) => {
            verifier::webpki_error(other).map_or(UNNAMED, path_reason)
        }
        _ => UNNAMED,
    }
    .to_owned()
}

const UNNAMED: &str = "certificate cannot be verified";

/// What rustls has no variant for.
const fn path_reason(error: &webpki::Error) -> &'static str {
    match error {
        webpki::Error::CaUsedAsEndEntity => "certificate is self-signed",
        webpki::Error::EndEntityUsedAsCa => "certificate is issued by one that is no CA's",
        webpki::Error::UnsupportedCertVersion => "certificate is older than X.509 version 3",
        webpki::Error::UnsupportedCriticalExtension => {
            "certificate has a critical extension that is not known"
        }
        webpki::Error::NameConstraintViolation => {
            "certificate is for a name that its CA may not certify"
        }
        webpki::Error::PathLenConstraintViolated
        | webpki::Error::MaximumPathDepthExceeded
        | webpki::Error::MaximumPathBuildCallsExceeded
        | webpki::Error::MaximumSignatureChecksExceeded => "certificate chain is too long",
        _ => UNNAMED,
    }
}

/// The names in a certificate; rustls formats them as `DnsName("www.example")`.
fn names(presented: &[String]) -> String {
    const FEW: usize = 3;
    let names: Vec<_> = presented
        .iter()
        .take(FEW)
        .map(|name| {
            name.split_once('(')
                .and_then(|(_, name)| name.strip_suffix(')'))
                .unwrap_or(name)
                .trim_matches('"')
        })
        .collect();
    match presented.len().saturating_sub(FEW) {
        0 if names.is_empty() => "no name".into(),
        0 => text::quoted(names.join(", ").as_bytes()),
        more => format!(
            "{} and {more} more",
            text::quoted(names.join(", ").as_bytes())
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_sentences_and_never_the_names_of_types() {
        let other = |error: webpki::Error| {
            let other = rustls::OtherError(std::sync::Arc::new(error));
            Error::InvalidCertificate(CertificateError::Other(other))
        };
        for (error, expected) in [
            (
                Error::AlertReceived(AlertDescription::UnknownCA),
                "tls alert from the server: unknown ca",
            ),
            (
                Error::AlertReceived(AlertDescription::Unknown(200)),
                "tls alert from the server: number 200",
            ),
            (
                Error::PeerIncompatible(PeerIncompatible::ServerDoesNotSupportTls12Or13),
                "no common tls: the server speaks neither tls 1.2 nor 1.3",
            ),
            (
                Error::PeerMisbehaved(rustls::PeerMisbehaved::IllegalMiddleboxChangeCipherSpec),
                "the server breaks the rules of tls",
            ),
            (
                Error::InvalidMessage(InvalidMessage::HandshakePayloadTooLarge),
                "the server's certificate chain is larger than 64 KiB",
            ),
            (
                Error::InconsistentKeys(InconsistentKeys::KeyMismatch),
                "the key is of another certificate",
            ),
            (
                Error::InvalidCertificate(CertificateError::BadEncoding),
                "certificate cannot be read",
            ),
            (
                other(webpki::Error::UnsupportedCertVersion),
                "certificate is older than X.509 version 3",
            ),
            (
                other(webpki::Error::MalformedExtensions),
                "certificate cannot be verified",
            ),
        ] {
            assert_eq!(sentence(&error), expected);
        }
    }
}
