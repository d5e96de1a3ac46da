# One stub for each vector: it makes every frame look alike (an error code, then the vector) and joins the
# others.

.section .text.traps, "ax", @progbits
.balign 16
.global trap_stubs
trap_stubs:
.set trap_vector, 0
.rept 256
    .balign 16
    # Vectors for which the processor pushes an error code (Intel SDM volume 3, table 6-1; AMD's 29 and 30).
    .if (trap_vector == 8) || ((trap_vector >= 10) && (trap_vector <= 14)) || (trap_vector == 17)
    .elseif (trap_vector == 21) || (trap_vector == 29) || (trap_vector == 30)
    .else
    push 0
    .endif
    .byte 0x68                  # push imm32
    .long trap_vector
    jmp trap_common
    .set trap_vector, trap_vector + 1
.endr

trap_common:
    push rax
    push rbx
    push rcx
    push rdx
    push rsi
    push rdi
    push rbp
    push r8
    push r9
    push r10
    push r11
    push r12
    push r13
    push r14
    push r15
    # The processor aligned the stack to 16 and pushed 6 words with the error code; with 16 of ours it is
    # aligned again.
    mov rdi, rsp
    sub rsp, 512
    fxsave64 [rsp]
    cld
    call trap_entry
    fxrstor64 [rsp]
    add rsp, 512
    pop r15
    pop r14
    pop r13
    pop r12
    pop r11
    pop r10
    pop r9
    pop r8
    pop rbp
    pop rdi
    pop rsi
    pop rdx
    pop rcx
    pop rbx
    pop rax
    add rsp, 16
    iretq
