#compdef micro
_micro() {
    local -a found plain assign
    found=("${(@f)$(micro __complete -- "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    assign=(${(M)found:#*[=/]})
    plain=(${found:#*[=/]})
    if (( ${#assign} + ${#plain} == 0 )); then
        _files
        return
    fi
    (( ${#plain} )) && compadd -- "${plain[@]}"
    (( ${#assign} )) && compadd -S '' -- "${assign[@]}"
}
compdef _micro micro
