//! TOKEN_ACCESS_INFORMATION (winnt.h), the value of ALE_USER_ID: the user is the first SID of the SID hash.

use alloc::boxed::Box;
use alloc::sync::Arc;
use core::ffi::c_void;
use core::ptr::null_mut;

use crate::sys::fwp::FWP_BYTE_BLOB;

#[repr(C)]
struct SidAndAttributes {
    sid: *mut c_void,
    attributes: u32,
}

#[repr(C)]
struct SidAndAttributesHash {
    count: u32,
    sids: *mut SidAndAttributes,
    hash: [usize; 32],
}

#[repr(C)]
struct TokenAccessInformation {
    sid_hash: *mut SidAndAttributesHash,
    restricted_sid_hash: *mut SidAndAttributesHash,
    privileges: *mut c_void,
    authentication_id: u64,
    token_type: i32,
    impersonation_level: i32,
    mandatory_policy: u32,
    flags: u32,
    app_container_number: u32,
    package_sid: *mut c_void,
    capabilities_hash: *mut SidAndAttributesHash,
    trust_level_sid: *mut c_void,
    security_attributes: *mut c_void,
}

const SIZE: u32 = 88;
const _: () = assert!(size_of::<TokenAccessInformation>() == SIZE as usize);

/// TokenPrimary of TOKEN_TYPE.
const TOKEN_PRIMARY: i32 = 1;
/// SE_GROUP_ENABLED.
const ENABLED: u32 = 4;

/// The access information of one user's token. Points into itself: stays where it is made.
pub(super) struct AccessInformation {
    _sid: Arc<[u8]>,
    sids: [SidAndAttributes; 1],
    hash: SidAndAttributesHash,
    token: TokenAccessInformation,
    blob: FWP_BYTE_BLOB,
}

impl AccessInformation {
    /// From a SID in binary form.
    pub fn new(sid: Arc<[u8]>) -> Box<Self> {
        let mut made = Box::new(Self {
            sids: [SidAndAttributes { sid: sid.as_ptr().cast_mut().cast(), attributes: ENABLED }],
            _sid: sid,
            hash: SidAndAttributesHash { count: 1, sids: null_mut(), hash: [0; 32] },
            token: TokenAccessInformation {
                sid_hash: null_mut(),
                restricted_sid_hash: null_mut(),
                privileges: null_mut(),
                authentication_id: 0,
                token_type: TOKEN_PRIMARY,
                impersonation_level: 0,
                mandatory_policy: 0,
                flags: 0,
                app_container_number: 0,
                package_sid: null_mut(),
                capabilities_hash: null_mut(),
                trust_level_sid: null_mut(),
                security_attributes: null_mut(),
            },
            blob: FWP_BYTE_BLOB::ZERO,
        });
        made.hash.sids = made.sids.as_mut_ptr();
        made.token.sid_hash = &raw mut made.hash;
        made.blob = FWP_BYTE_BLOB { size: SIZE, data: (&raw mut made.token).cast() };
        made
    }

    /// The blob that a value points at.
    pub fn blob(&mut self) -> *mut FWP_BYTE_BLOB {
        &raw mut self.blob
    }
}
