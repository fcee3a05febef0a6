# Everything that runs in ring 0: the PVH entry, the way into ring 3, interrupts, exceptions, and the trapped services. All
# of the rest of the unikernel runs in ring 3 (docs/design.md says why), so this stays as small as it is.
#
# Intel syntax, integer instructions only: on a KVM without hardware virtualization each one of these is emulated.
#
# Linear addresses are physical ones. linker.ld fixes where sections begin; the constants below repeat it and the
# assembler or the linker refuses a mismatch.

.equ RING0_TEXT,      0x100000
.equ RING0_DATA,      0x110000
.equ RING0_STACK_TOP, 0x133000      # two pages from 0x131000, a guard page on each side
.equ TRAP_PAGE,       0x134000      # shared with ring 3: see trap.rs for its layout
.equ MAIN_STACK_TOP,  0x880000      # 508 KiB from 0x801000
.equ FAULT_STACK_TOP, 0x8a0000      # 60 KiB from 0x891000
.equ LAPIC_EOI,       0xfee000b0

.equ SELECTOR_CODE0,  0x08
.equ SELECTOR_DATA0,  0x10
.equ SELECTOR_DATA3,  0x1b
.equ SELECTOR_CODE3,  0x23
.equ SELECTOR_TSS,    0x28

.equ TRAP_BOOT_TSC,   0xe8          # offsets in the trap page; the registers of an exception begin at 0
.equ TRAP_REPORTING,  0xf0

.equ MSR_EFER,        0xc0000080

# --- The PVH note: XEN_ELFNOTE_PHYS32_ENTRY, four-byte aligned, a 32-bit entry address ---
.section .note.pvh, "a", @note
    .balign 4
    .long 4, 4, 18
    .asciz "Xen"
    .long pvh_start

# --- Entry: 32-bit protected mode, flat segments, no paging, EBX = hvm_start_info ---
.section .ring0.text, "ax", @progbits
.code32
ring0_text:
.global pvh_start
pvh_start:
    cld
    cli
    rdtsc                           # the zero of the clock
    mov [TRAP_PAGE + TRAP_BOOT_TSC], eax
    mov [TRAP_PAGE + TRAP_BOOT_TSC + 4], edx
    lgdt [gdt_pointer]
    mov eax, 0x620                  # CR4: PAE, OSFXSR, OSXMMEXCPT
    mov cr4, eax
    mov eax, offset pml4
    mov cr3, eax
    mov ecx, MSR_EFER
    rdmsr
    or eax, 0x900                   # LME, NXE
    wrmsr
    mov eax, 0x80010033             # CR0: PG, WP, NE, ET, MP, PE
    mov cr0, eax
    ljmp SELECTOR_CODE0, offset long_mode

.code64
long_mode:
    mov eax, SELECTOR_DATA0
    mov ss, eax
    mov ds, eax
    mov es, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov esp, RING0_STACK_TOP
    lidt [idt_pointer]
    mov eax, SELECTOR_TSS
    ltr ax
    mov al, 0xff                    # both PICs masked: interrupts come by the I/O APIC and as messages
    out 0x21, al
    out 0xa1, al
    mov edi, ebx
    xor ebp, ebp                    # the end of the chain of frame pointers
    push SELECTOR_DATA3
    push MAIN_STACK_TOP - 8         # as after a call: 16n + 8
    push 2                          # RFLAGS: interrupts stay off in ring 3 and are taken in `idle` only
    push SELECTOR_CODE3
    lea rax, [rip + ring3_start]
    push rax
    iretq

# --- Exceptions: each pushes an error code (its own or 0) and its number ---
.macro exception vector, has_error=0
    .balign 16
exception_\vector:
    .if \has_error == 0
    push 0
    .endif
    push \vector
    jmp report
.endm

    exception 0
    exception 1
    exception 2
    exception 3
    exception 4
    exception 5
    exception 6
    exception 7
    exception 8, 1
    exception 9
    exception 10, 1
    exception 11, 1
    exception 12, 1
    # 13 is `general_protection`
    exception 14, 1
    exception 15
    exception 16
    exception 17, 1
    exception 18
    exception 19
    exception 20
    exception 21, 1
    exception 22
    exception 23
    exception 24
    exception 25
    exception 26
    exception 27
    exception 28
    exception 29, 1
    exception 30, 1
    exception 31

# --- #GP: the trapped services. A privileged instruction in ring 3 faults; those few that the unikernel may use are
# carried out on its behalf, and all else is reported as the fault that it is. ---
    .balign 16
general_protection:                 # error code, RIP, CS, RFLAGS, RSP, SS
    push rax
    test byte ptr [rsp + 24], 3     # from ring 0: no service
    jz not_a_service
    mov rax, [rsp + 16]
    movzx eax, word ptr [rax]
    cmp al, 0xf4
    je idle
    cmp eax, 0x300f
    je write_msr
    cmp eax, 0x320f
    je read_msr
not_a_service:
    pop rax
    push 13
    jmp report

# hlt: sleeps until an interrupt. Ring 3 runs with interrupts off, so one that came after ring 3 last looked for work
# is still pending here, and the shadow of `sti` lets it end the `hlt`: no wake-up is lost.
idle:
    sti
    hlt
    cli
    add qword ptr [rsp + 16], 1
    pop rax
    add rsp, 8
    iretq

# wrmsr: the paravirtual clock (MSR_KVM_SYSTEM_TIME_NEW) only.
write_msr:
    cmp ecx, 0x4b564d01
    jne not_a_service
    mov rax, [rsp]
    wrmsr
    add qword ptr [rsp + 16], 2
    pop rax
    add rsp, 8
    iretq

# rdmsr: IA32_APIC_BASE only.
read_msr:
    cmp ecx, 0x1b
    jne not_a_service
    rdmsr
    mov [rsp], rax
    add qword ptr [rsp + 16], 2
    pop rax
    add rsp, 8
    iretq

# --- Report: registers go to the trap page, then ring 3 gets a fresh stack and `ring3_exception` ---
report:                             # vector, error code, RIP, CS, RFLAGS, RSP, SS
    push rax
    push rcx
    push rdx
    push rbx
    push rbp
    push rsi
    push rdi
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    mov edi, TRAP_PAGE
    cmp qword ptr [rdi + TRAP_REPORTING], 0
    jne give_up
    mov qword ptr [rdi + TRAP_REPORTING], 1
    mov rsi, rsp
    mov ecx, 22
1:  mov rax, [rsi]
    mov [rdi], rax
    add rsi, 8
    add rdi, 8
    dec ecx
    jnz 1b
    mov rax, cr2
    mov [rdi], rax
    mov esp, RING0_STACK_TOP
    mov edi, TRAP_PAGE
    push SELECTOR_DATA3
    push FAULT_STACK_TOP - 8
    push 2
    push SELECTOR_CODE3
    lea rax, [rip + ring3_exception]
    push rax
    iretq

# A fault while one is being reported: nothing is left but the triple fault, whose registers the VMM can show.
give_up:
    lidt [no_idt]
    ud2

# --- Interrupts: acknowledged. `hlt` ends by having been interrupted, and who waited looks for work everywhere. ---
    .balign 16
interrupt:
    push rdi
    mov edi, LAPIC_EOI
    mov dword ptr [rdi], 0
    pop rdi
    iretq

    .balign 16
spurious:                           # no acknowledgement, by the rules of the local APIC
    iretq

# --- Data of ring 0 ---
.section .ring0.data, "aw", @progbits
ring0_data:

# The page tables: identity, static. Bits: 1 present, 2 writable, 4 user, 0x18 uncached, 0x80 large page, 1 << 63 no execute.
.equ P,  1
.equ W,  2
.equ U,  4
.equ UC, 0x18
.equ PS, 0x80
.equ NX, 0x8000000000000000

.global pml4
pml4:
    .quad pdpt + P + W + U
    .fill 511, 8, 0
pdpt:
    .quad pd0 + P + W + U
    .quad pd0 + 0x1000 + P + W + U
    .quad pd0 + 0x2000 + P + W + U
    .quad pd0 + 0x3000 + P + W + U
    .quad pd_registers + P + W + U
    .fill 507, 8, 0

# 0 to 4 GiB in 2 MiB pages.
pd0:
    .quad pt_low + P + W + U
    .quad 0x200000 + P + U + PS                     # text
    .quad 0x400000 + P + U + PS + NX                # read-only data
    .quad 0x600000 + P + W + U + PS + NX            # data
    .quad pt_stacks + P + W + U
    .set address, 0xa00000
    .rept 0x600 - 5                                 # free memory up to 3 GiB
    .quad address + P + W + U + PS + NX
    .set address, address + 0x200000
    .endr
    .rept 0x200                                     # device registers from 3 GiB to 4 GiB
    .quad address + P + W + U + UC + PS + NX
    .set address, address + 0x200000
    .endr

# 2 to 3 GiB once more, from 4 GiB on, as device registers: QEMU's q35 has PCI's configuration space there, and others have
# memory.
pd_registers:
    .set address, 0x80000000
    .rept 0x200
    .quad address + P + W + U + UC + PS + NX
    .set address, address + 0x200000
    .endr

# 0 to 2 MiB in 4 KiB pages.
pt_low:
    .quad 0                                         # null pointers fault
    .set address, 0x1000
    .rept 0x100 - 1                                 # what the VMM or the firmware left: start info, ACPI tables
    .quad address + P + U + NX
    .set address, address + 0x1000
    .endr
    .rept 0x10                                      # ring-0 text
    .quad address + P
    .set address, address + 0x1000
    .endr
    .rept 0x20                                      # ring-0 data
    .quad address + P + W + NX
    .set address, address + 0x1000
    .endr
    .quad 0                                         # guard
    .quad 0x131000 + P + W + NX                     # ring-0 stack
    .quad 0x132000 + P + W + NX
    .quad 0                                         # guard
    .quad TRAP_PAGE + P + W + U + NX
    .quad 0 + P + U + NX                            # page 0, where SeaBIOS leaves the memory map, shown at 0x135000
    .fill 0x200 - 0x136, 8, 0

# 8 to 10 MiB: stacks, all else absent.
pt_stacks:
    .quad 0
    .set address, 0x801000
    .rept 0x7f
    .quad address + P + W + U + NX
    .set address, address + 0x1000
    .endr
    .fill 0x11, 8, 0
    .set address, 0x891000
    .rept 0x0f
    .quad address + P + W + U + NX
    .set address, address + 0x1000
    .endr
    .fill 0x200 - 0xa0, 8, 0

    .balign 16
gdt:
    .quad 0
    .quad 0x00209b0000000000        # ring-0 code, 64-bit
    .quad 0x00cf93000000ffff        # ring-0 data
    .quad 0x00cff3000000ffff        # ring-3 data
    .quad 0x0020fb0000000000        # ring-3 code, 64-bit
    .word tss_end - tss - 1         # TSS: RING0_DATA is 0x110000, and the offset fits in 16 bits
    .word tss - ring0_data
    .byte RING0_DATA >> 16, 0x89, 0, 0
    .quad 0
gdt_end:

gdt_pointer:
    .word gdt_end - gdt - 1
    .quad gdt
idt_pointer:
    .word 256 * 16 - 1
    .quad idt
no_idt:
    .word 0
    .quad 0

# The TSS: the stack of ring 0, and the ports that ring 3 may use (a zero bit grants one).
    .balign 16
tss:
    .long 0
    .quad RING0_STACK_TOP
    .fill 90, 1, 0
    .word port_bitmap - tss
port_bitmap:
    .fill 0x40 / 8, 1, 0xff
    .byte 0xf0                      # 0x40-0x43: interval timer
    .fill 0x1e - 0x09, 1, 0xff
    .byte 0xef                      # 0xf4: exit device
    .fill 0x7f - 0x1f, 1, 0xff
    .byte 0                         # 0x3f8-0x3ff: serial port
    .fill 0xa0 - 0x80, 1, 0xff
    .byte 0xf0                      # 0x500-0x503: block console
    .fill 0x19f - 0xa1, 1, 0xff
    .byte 0                         # 0xcf8-0xcff: PCI configuration
    .byte 0xff
tss_end:

# The IDT. Every handler lies in the first 64 KiB of RING0_TEXT, whose low 16 bits are zero.
.macro gate handler, privilege=0
    .word \handler - ring0_text
    .word SELECTOR_CODE0
    .byte 0, 0x8e | (\privilege << 5)
    .word RING0_TEXT >> 16
    .quad 0
.endm
.macro exception_gate vector, privilege=0
    gate exception_\vector, \privilege
.endm

    .balign 16
idt:
    .altmacro
    .set i, 0
    .rept 3
    exception_gate %i
    .set i, i + 1
    .endr
    exception_gate 3, 3             # a breakpoint may be set anywhere
    .set i, 4
    .rept 9
    exception_gate %i
    .set i, i + 1
    .endr
    gate general_protection
    .set i, 14
    .rept 18
    exception_gate %i
    .set i, i + 1
    .endr
    .noaltmacro
    .rept 256 - 32 - 1
    gate interrupt
    .endr
    gate spurious                   # vector 255, see interrupt.rs
