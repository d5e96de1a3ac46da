# The way from PVH's 32-bit entry into long mode.
#
# At entry (Xen's docs/misc/pvh.pandoc): ebx holds the physical address of hvm_start_info, CR0.PE is set,
# paging is off, the segments are flat. rdi holds that address when Rust is called.

.section .note.Xen, "a", @note
    .balign 4
    .long 4                     # name size
    .long 4                     # descriptor size
    .long 18                    # XEN_ELFNOTE_PHYS32_ENTRY
    .asciz "Xen"
    .long pvh_entry

.section .boot.text, "ax", @progbits
.code32
.global pvh_entry
pvh_entry:
    cli
    cld
    mov esp, offset stack_top
    mov ebp, ebx

    # The first 4 GiB one to one, in 2 MiB pages (present, writable, large).
    mov edi, offset boot_directories
    mov eax, 0x83
    mov ecx, 2048
1:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add edi, 8
    add eax, 0x200000
    dec ecx
    jnz 1b

    mov edi, offset boot_pointers
    mov eax, offset boot_directories
    or eax, 3
    mov ecx, 4
2:  mov [edi], eax
    mov dword ptr [edi + 4], 0
    add edi, 8
    add eax, 4096
    dec ecx
    jnz 2b

    mov eax, offset boot_pointers
    or eax, 3
    mov dword ptr [boot_root], eax
    mov dword ptr [boot_root + 4], 0

    # PAE, and OSFXSR and OSXMMEXCPT: compiled Rust uses SSE from its first line on.
    mov eax, (1 << 5) | (1 << 9) | (1 << 10)
    mov cr4, eax
    mov eax, offset boot_root
    mov cr3, eax

    # EFER.LME
    mov ecx, 0xc0000080
    rdmsr
    or eax, 1 << 8
    wrmsr

    # CR0: PG, WP, NE, MP, PE on; caching on (CD, NW off); EM and TS off, or SSE would raise exceptions.
    mov eax, cr0
    and eax, 0x9fffffff & ~((1 << 2) | (1 << 3))
    or eax, (1 << 31) | (1 << 16) | (1 << 5) | (1 << 1) | 1
    mov cr0, eax

    lgdt [boot_gdt_pointer]
    push 8
    mov eax, offset long_mode
    push eax
    retf

.code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov esp, offset stack_top
    mov edi, ebp
    xor ebp, ebp
    call image_main
    ud2

.section .rodata.boot, "a", @progbits
    .balign 8
boot_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
boot_gdt_end:
boot_gdt_pointer:
    .word boot_gdt_end - boot_gdt - 1
    .quad boot_gdt

.section .bss.boot, "aw", @nobits
    .balign 4096
boot_root:
    .skip 4096
boot_pointers:
    .skip 4096
boot_directories:
    .skip 4 * 4096
