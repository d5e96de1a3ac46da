# From 4-level paging to 5-level paging. CR4.LA57 can only be changed outside long mode (Intel SDM volume 3,
# 4.1.1), so the way is through 32-bit code without paging; this code and the stack are mapped one to one and
# lie below 4 GiB.
#
# Called with interrupts off. The new top table has the old one as its first.

.section .text.deepen, "ax", @progbits
.code64
.global deepen_paging
deepen_paging:
    sgdt [rip + deepen_saved]
    mov rcx, cr3
    and rcx, -4096
    or rcx, 3
    mov [rip + deepen_root], rcx
    lgdt [rip + deepen_gdt_pointer]
    # Outside 64-bit mode limits count.
    mov eax, 16
    mov ss, eax
    mov ds, eax
    mov es, eax
    push 24
    lea rax, [rip + 2f]
    push rax
    retfq

.code32
2:  mov eax, cr0
    and eax, 0x7fffffff
    mov cr0, eax
    mov eax, cr4
    or eax, 1 << 12
    mov cr4, eax
    mov eax, offset deepen_root
    mov cr3, eax
    # EFER.LME is still set.
    mov eax, cr0
    or eax, 0x80000000
    mov cr0, eax
    push 8
    mov eax, offset deepen_done
    push eax
    retf

.code64
deepen_done:
    lgdt [rip + deepen_saved]
    mov eax, 16
    mov ss, eax
    mov ds, eax
    mov es, eax
    ret

.section .rodata.deepen, "a", @progbits
    .balign 8
deepen_gdt:
    .quad 0
    .quad 0x00af9b000000ffff    # 64-bit code
    .quad 0x00cf93000000ffff    # data
    .quad 0x00cf9b000000ffff    # 32-bit code
deepen_gdt_end:
deepen_gdt_pointer:
    .word deepen_gdt_end - deepen_gdt - 1
    .quad deepen_gdt

.section .bss.deepen, "aw", @nobits
    .balign 4096
deepen_root:
    .skip 4096
deepen_saved:
    .skip 10
