/* What a driver in C needs of the WDK's BufferOverflowFastFailK.lib: the load configuration with control flow guard's
   pointers, the stack's cookie and its check. weir.sys brings its own (src/image.rs). */

    .text
    .p2align 4
    .def guard_check; .scl 3; .type 32; .endef
guard_check:
    ret
    .p2align 4
    .def guard_dispatch; .scl 3; .type 32; .endef
guard_dispatch:
#ifdef __x86_64__
    jmp *%rax
#else
    br x9
#endif

/* The cookie that a function has found on its stack, in the first register. Ends with FAST_FAIL_STACK_COOKIE_CHECK_FAILURE. */
    .p2align 4
    .def __security_check_cookie; .scl 2; .type 32; .endef
    .globl __security_check_cookie
__security_check_cookie:
#ifdef __x86_64__
    cmpq __security_cookie(%rip), %rcx
    jne 1f
    ret
1:  movl $2, %ecx
    int $0x29
#else
    adrp x8, __security_cookie
    ldr x8, [x8, :lo12:__security_cookie]
    cmp x8, x0
    b.ne 1f
    ret
1:  mov w0, #2
    brk #0xF003
#endif

/* What control flow guard calls until the kernel has set its own. */
    .section .00cfg,"dr"
    .p2align 3
    .globl __guard_check_icall_fptr
__guard_check_icall_fptr: .quad guard_check
    .globl __guard_dispatch_icall_fptr
__guard_dispatch_icall_fptr: .quad guard_dispatch

/* The kernel makes a cookie of its own of this known one. */
    .section .data,"dw"
    .p2align 3
    .globl __security_cookie
__security_cookie: .quad 0x00002B992DDFA232

/* IMAGE_LOAD_CONFIG_DIRECTORY64 up to GuardMemcpyFunctionPointer; the linker makes the tables. */
    .section .rdata,"dr"
    .p2align 3
    .globl _load_config_used
_load_config_used:
    .long 0x140 /* Size */
    .zero 0x54  /* TimeDateStamp to EditList */
    .quad __security_cookie
    .zero 0x10  /* SEHandlerTable, SEHandlerCount */
    .quad __guard_check_icall_fptr
    .quad __guard_dispatch_icall_fptr
    .quad __guard_fids_table
    .quad __guard_fids_count
    .long __guard_flags
    .zero 0x0C  /* CodeIntegrity */
    .quad __guard_iat_table
    .quad __guard_iat_count
    .quad __guard_longjmp_table
    .quad __guard_longjmp_count
    .zero 0x38  /* DynamicValueRelocTable to HotPatchTableOffset, with what is reserved */
    .zero 0x10  /* EnclaveConfigurationPointer, VolatileMetadataPointer */
    .quad __guard_eh_cont_table
    .quad __guard_eh_cont_count
    .zero 0x28  /* GuardXFGCheckFunctionPointer to GuardMemcpyFunctionPointer */
