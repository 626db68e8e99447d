function __micro_complete
    set -l words (commandline -opc) (commandline -ct)
    micro __complete -- $words[2..-1] 2>/dev/null
end
complete -c micro -f -a '(__micro_complete)'
complete -c micro -n '__fish_seen_subcommand_from run update new gen' -F
